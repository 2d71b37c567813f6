//! The suite that every store passes.

use std::{process::Command, sync::Arc};

use super::*;
use crate::testing::store::{Subject, SubjectFuture, check, hold_lease};

struct InFolder(Place);

impl InFolder {
    fn folder(&self) -> &Path {
        self.0.store.folder()
    }
}

impl Subject for InFolder {
    fn open(&self) -> SubjectFuture<'_, Arc<dyn Store>> {
        let store = FileStore::new(self.folder());
        Box::pin(async { Arc::new(store) as Arc<dyn Store> })
    }

    fn damage<'a>(&'a self, profile: &'a Profile, bytes: &'a [u8]) -> SubjectFuture<'a, bool> {
        let file = format!("{}.json", name::stem(profile));
        fs::write(self.folder().join(file), bytes).unwrap();
        Box::pin(async { true })
    }

    fn set_aside<'a>(&'a self, profile: &'a Profile) -> SubjectFuture<'a, Vec<Vec<u8>>> {
        let beginning = format!("{}.aside-", name::stem(profile));
        let folder = Folder::new(self.folder().into());
        let names = folder.names(&beginning).unwrap();
        let read = names.iter().map(|name| fs::read(folder.path_of(name)));
        let read = read.collect::<Result<_, _>>().unwrap();
        Box::pin(async { read })
    }

    fn lease_holder(&self, profile: &Profile) -> Option<Command> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["store::file::tests::suite::holder", "--exact", "--ignored"]);
        command.args(["--nocapture"]);
        command.env(PROFILE, profile.name());
        command.env(FOLDER, self.folder());
        Some(command)
    }
}

const PROFILE: &str = "COZE_TESTS_LEASE_OF";
const FOLDER: &str = "COZE_TESTS_LEASE_IN";

#[tokio::test]
#[ignore = "run by the suite, in a process of its own"]
async fn holder() {
    let profile = Profile::new(std::env::var(PROFILE).unwrap()).unwrap();
    let store = FileStore::new(std::env::var_os(FOLDER).unwrap());
    hold_lease(&store, &profile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_store_passes_the_suite() {
    check(&InFolder(Place::new())).await;
}
