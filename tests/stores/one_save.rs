//! One save of a sign-in into a file, for a trace of its system calls: `one-save <folder>`.

use std::time::Duration;

use coze_auth::store::{FileStore, Leasing, Profile, Record, Saved, Store};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("one-save <folder>")?;
    let store = FileStore::new(folder);
    let profile = Profile::new("default")?;
    let first = record("rt_first")?;
    store.put(&profile, &first).await?;
    let lease = match store.lease(&profile, Duration::from_secs(60)).await? {
        Leasing::Got(lease) => lease,
        held => return Err(format!("{held:?}").into()),
    };
    lease.prove_save(&first).await?;
    let successor = record("rt_second")?;
    let saved = store.save(&profile, first.refresh_token(), &successor);
    match saved.await? {
        Saved::Saved => Ok(lease.release().await?),
        moved_on => Err(format!("{moved_on:?}").into()),
    }
}

fn record(refresh_token: &str) -> coze_auth::Result<Record> {
    let json = format!(
        r#"{{"version":1,"access_token":"czu_token","refresh_token":"{refresh_token}",
        "expires_at":1800000000,"life_ms":899000}}"#
    );
    Record::from_json(json.as_bytes())
}
