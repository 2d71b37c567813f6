//! A store of your own: sign-ins in an SQLite database. Lists the profiles that the database of this name holds:
//!
//! `cargo run --example sqlite -- sign-ins.db`

mod store;

use anyhow::Context;
use coze_auth::store::{Blocking, Store};
use store::SqliteStore;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).context("usage: sqlite <file>")?;
    let store = Blocking::new(SqliteStore::open(path)?);
    for profile in store.list().await?.unwrap_or_default() {
        println!("{profile}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_store_passes_the_suite() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("sign-ins.db");
        let open = || Blocking::new(SqliteStore::open(&path).expect("a new database"));
        coze_auth::testing::store::check(|| async { Arc::new(open()) as Arc<dyn Store> });
        Ok(())
    }
}
