//! No copy of a private key remains in memory after its configuration has been dropped.
//!
//! The test searches the whole memory of a process, including freed memory. It runs in a child process, which knows the key
//! only as masked search patterns, and only on Linux, where a process can read its own memory as a file.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use coze_auth::OAuthConfig;
use serde_json::json;

use crate::support::TestKey;

/// The variables with the path of the configuration, and with the masked search patterns in hexadecimal.
const CONFIGURATION: &str = "MEMORY_TEST_CONFIGURATION";
const NEEDLES: [&str; 3] = ["MEMORY_TEST_TEXT", "MEMORY_TEST_DER", "MEMORY_TEST_NUMBER"];

/// The XOR mask of the patterns.
const MASK: u8 = 0xa5;

#[test]
fn a_dropped_configuration_leaves_no_private_key_in_memory() {
    let key = TestKey::get();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coze_oauth_config.json");
    let json = json!({
        "client_type": "jwt", "client_id": "i", "public_key_id": "k", "private_key": key.pem(),
    });
    std::fs::write(&path, json.to_string()).unwrap();

    // Parts of the private exponent: as PEM text, as DER bytes, and as a number in memory.
    let body: String = key.pem_lines().collect();
    let text = body.as_bytes()[800..832].to_vec();
    let der = STANDARD.decode(&body).unwrap()[600..624].to_vec();
    let number = der.iter().rev().copied().collect();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["memory::child", "--exact", "--ignored", "--nocapture"])
        .env(CONFIGURATION, &path)
        .envs(NEEDLES.into_iter().zip([text, der, number].map(disguised)))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let failed = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}\n{failed}");
    assert!(
        said.contains("1 passed"),
        "the child process did not run: {said}"
    );
}

fn disguised(needle: Vec<u8>) -> String {
    let hex = needle.iter().map(|byte| format!("{:02x}", byte ^ MASK));
    hex.collect()
}

/// The child process of the test above.
#[test]
#[ignore = "started by the test above"]
fn child() {
    let path = std::env::var_os(CONFIGURATION).unwrap();
    let needles = NEEDLES.map(|name| {
        let hex = std::env::var(name).unwrap();
        let bytes = (0..hex.len()).step_by(2);
        bytes
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect::<Vec<_>>()
    });
    // The search works: it finds a copy of the file, and the number while the key exists.
    let copy = std::fs::read(&path).unwrap();
    let config = OAuthConfig::from_file(&path).unwrap();
    let [text, _, number] = found(&needles);
    assert!(text > 0 && number > 0, "{text} {number}");
    zeroize::Zeroizing::new(copy);
    drop(config);
    assert_eq!(found(&needles), [0, 0, 0], "as text, as bytes, as a number");

    // Errors leave no copy either.
    let error = "{}".parse::<OAuthConfig>().unwrap_err();
    drop(error);
    for _ in 0..3 {
        drop(OAuthConfig::from_file(&path).unwrap().build().unwrap());
    }
    assert_eq!(found(&needles), [0, 0, 0], "after several configurations");
}

/// How often each masked pattern occurs in this process's memory.
fn found(needles: &[Vec<u8>; 3]) -> [usize; 3] {
    let mut memory = File::open("/proc/self/mem").unwrap();
    let regions: Vec<_> = BufReader::new(File::open("/proc/self/maps").unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| writable_region(&line))
        .collect();
    let mut counts = [0; 3];
    for (start, end) in regions {
        let mut contents = vec![0; end - start];
        memory.seek(SeekFrom::Start(start as u64)).unwrap();
        // A region that cannot be read has been unmapped.
        if memory.read_exact(&mut contents).is_err() {
            continue;
        }
        for (needle, count) in needles.iter().zip(&mut counts) {
            let is_needle = |window: &[u8]| {
                let mut pairs = window.iter().zip(needle);
                pairs.all(|(byte, disguised)| *byte == disguised ^ MASK)
            };
            *count += contents
                .windows(needle.len())
                .filter(|w| is_needle(w))
                .count();
        }
        // Otherwise the next search would find this buffer.
        zeroize::Zeroizing::new(contents);
    }
    counts
}

fn writable_region(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |hex| usize::from_str_radix(hex, 16).ok();
    words
        .next()?
        .starts_with("rw")
        .then_some((number(start)?, number(end)?))
}
