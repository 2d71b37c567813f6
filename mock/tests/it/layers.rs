//! The layers of the modules: imports go from higher to lower ones only.

use std::fs;
use std::path::Path;

/// From the lowest to the highest.
const LAYERS: [(&str, &[&str]); 9] = [
    (
        "basics",
        &[
            "secret",
            "error",
            "limits",
            "printable",
            "clock",
            "keys",
            "jwt",
            "endpoint",
        ],
    ),
    ("HTTP", &["host", "request", "body", "answer"]),
    ("record and contract", &["record", "contract"]),
    (
        "configuration and state",
        &[
            "app",
            "defaults",
            "resources",
            "options",
            "scripted_response",
            "stream",
            "fault",
            "state",
            "routing",
            "core",
        ],
    ),
    ("one request", &["context", "recording"]),
    (
        "OAuth",
        &["issue", "assertion", "device", "token", "authorize"],
    ),
    (
        "pages, API and control",
        &["pages", "envelope", "chats", "api", "visit", "control"],
    ),
    ("HTTP in", &["dispatch", "service", "server"]),
    ("interface of the library", &["builder", "mock"]),
];

/// The modules that the code of a file uses, without its tests and comments.
fn used(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a source file");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut modules = Vec::new();
    for path in code.split("crate::").skip(1) {
        let names = match path.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => path,
        };
        let is_list = names.len() < path.len();
        for name in names.split(',').take(if is_list { usize::MAX } else { 1 }) {
            let name = name.trim();
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
            modules.push(name[..end.unwrap_or(name.len())].to_owned());
        }
    }
    modules
}

#[test]
fn every_module_uses_lower_ones_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order: Vec<&str> = LAYERS
        .iter()
        .flat_map(|(_, modules)| *modules)
        .copied()
        .collect();
    let mut checked = 0;
    for (place, module) in order.iter().enumerate() {
        let folder = source.join(module);
        let files: Vec<_> = if folder.is_dir() {
            let entries = fs::read_dir(folder).expect("a folder");
            entries
                .map(|entry| entry.expect("an entry").path())
                .collect()
        } else {
            vec![source.join(format!("{module}.rs"))]
        };
        for name in files.iter().flat_map(|file| used(file)) {
            let lower = order[..place].contains(&name.as_str());
            assert!(lower || name == *module, "{module} uses {name}");
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} uses were found");
    let files = fs::read_dir(&source).expect("a folder").count();
    // Besides the modules: lib.rs and main.rs.
    assert_eq!(files, order.len() + 2, "a module without a layer");
}
