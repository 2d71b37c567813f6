//! The corpus of the fuzz targets, replayed.

use std::{fs, panic, path::Path};

use crate::checks::replay;

/// The maximum size of the corpus, in bytes.
const LIMIT: u64 = 1 << 20;

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn replay(target: &str, check: impl Fn(&[u8]) + panic::RefUnwindSafe) {
    let folder = corpus().join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let input = fs::read(&path).unwrap();
        let outcome = panic::catch_unwind(|| check(&input));
        assert!(outcome.is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count > 10, "{} has {count} inputs", folder.display());
}

#[test]
fn replay_token_answers() {
    replay("token_answer", replay::token_answer);
}

#[test]
fn replay_device_answers() {
    replay("device_answer", replay::device_answer);
}

#[test]
fn replay_error_bodies() {
    replay("error_body", replay::error_body);
}

#[test]
fn replay_callbacks() {
    replay("callback_url", replay::callback_url);
}

#[test]
fn replay_configurations() {
    replay("config", replay::config);
}

#[test]
fn replay_key_texts() {
    replay("key_text", replay::key_text);
}

#[test]
fn replay_store_records() {
    replay("store_record", replay::store_record);
}

#[test]
fn replay_requests_to_the_mock() {
    replay("mock_requests", replay::mock_requests);
}

#[test]
fn replay_descriptions() {
    replay("spec_text", replay::spec_text);
}

#[test]
fn the_corpus_is_small() {
    let mut size = 0;
    for target in fs::read_dir(corpus()).unwrap() {
        for input in fs::read_dir(target.unwrap().path()).unwrap() {
            size += input.unwrap().metadata().unwrap().len();
        }
    }
    assert!(size <= LIMIT, "{size} bytes");
}
