//! Reads small files whose paths the user configures: private keys and configuration files.

use std::{
    fs::{File, FileType, Metadata},
    io::{self, Read},
    path::Path,
};

use coze_wire::sanitize_to;
use zeroize::Zeroizing;

use super::cleaned;

/// The maximum size of a key or configuration file in bytes (256 KiB). Typical files have a few thousand.
pub(crate) const FILE_LIMIT: usize = 256 * 1024;

/// The longest path shown in an error, in bytes.
const LONGEST_PATH: usize = 4096;

/// Formats a path for an error message. `None` if the text is not a path but, by mistake, the contents of a key or a
/// configuration file, which must not be shown. Anything that looks like another secret is redacted.
pub(crate) fn shown_path(path: &Path) -> Option<String> {
    let shown = path.display().to_string();
    let text = cleaned(&shown);
    let is_contents = shown.len() > LONGEST_PATH
        || text.contains("-----BEGIN")
        || text.contains(char::is_control)
        || text.starts_with(['{', '[', '<'])
        || is_base64_of_key(text);
    (!is_contents).then(|| sanitize_to(&shown, &[], LONGEST_PATH))
}

/// Whether the text is probably base64 of a key: it has only base64 characters, and is either long or starts like a short
/// key, which is a DER sequence of less than 256 bytes.
fn is_base64_of_key(text: &str) -> bool {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || c.is_whitespace() || "+/-_=".contains(c);
    let starts_as_key = matches!(text.as_bytes(), [b'M', b'A'..=b'P', ..]) && text.len() >= 48;
    (text.len() >= 128 || starts_as_key) && !text.starts_with('/') && text.chars().all(is_base64)
}

/// Reads a whole file of at most [`FILE_LIMIT`] bytes into memory that is zeroized on drop, without leaving other copies.
///
/// Only regular files are read: a read from a named pipe may block forever, and a device may have no end.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Checked before opening, because opening a pipe blocks and opening a device may have side effects. Checked again
    // afterwards, because the file may have been replaced.
    let metadata = std::fs::metadata(path).map_err(|error| with_advice(error, path))?;
    require_regular(&metadata)?;
    let mut file = open(path)?;
    require_regular(&file.metadata()?)?;
    // The buffer never reallocates, which would leave a copy in memory.
    let mut contents = Zeroizing::new(vec![0; FILE_LIMIT + 1]);
    let mut length = 0;
    while let Some(buffer) = contents
        .get_mut(length..)
        .filter(|buffer| !buffer.is_empty())
    {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if length > FILE_LIMIT {
        let limit = FILE_LIMIT / 1024;
        return Err(invalid_file(&format!("it is larger than {limit} KiB")));
    }
    contents.truncate(length);
    Ok(contents)
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let non_blocking = rustix::fs::OFlags::NONBLOCK.bits();
    File::options()
        .read(true)
        .custom_flags(non_blocking.cast_signed())
        .open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let what = if metadata.is_dir() {
        "a directory"
    } else {
        special(metadata.file_type())
    };
    Err(invalid_file(&format!("it is {what}, not a regular file")))
}

#[cfg(unix)]
fn special(file_type: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;

    if file_type.is_fifo() {
        "a named pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "a special file"
}

/// Adds advice to a "not found" error if the path shows the cause.
fn with_advice(error: io::Error, path: &Path) -> io::Error {
    // On Windows, a path with disallowed characters is an invalid file name, not a missing file.
    if !matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename
    ) {
        return error;
    }
    let text = path.to_string_lossy();
    let advice = if text.trim().is_empty() {
        "the path is empty"
    } else if path.is_symlink() {
        "it is a symbolic link whose target does not exist"
    } else if text.starts_with("file:") {
        "give a path, not a URL"
    } else if text.starts_with(['~', '$', '%']) {
        "~ and variables are not expanded; write the whole path"
    } else if cleaned(&text) != text {
        "the path begins or ends with white space or quotation marks; remove them"
    } else {
        return error;
    };
    io::Error::new(error.kind(), format!("{error}; {advice}"))
}

fn invalid_file(why: &str) -> io::Error {
    io::Error::other(why)
}

/// Decodes the bytes of a file, in memory that is zeroized on drop. `None` if they are not valid text.
///
/// The encoding is UTF-8 or UTF-16, which PowerShell writes. UTF-16 is detected by its byte order mark, or by the zero bytes
/// of ASCII characters (RFC 4627 section 3).
pub(crate) fn text(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        // A UTF-16 code unit takes at most 3 bytes in UTF-8.
        let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(2) * 3));
        let (units, rest) = bytes.as_chunks::<2>();
        for c in char::decode_utf16(units.iter().map(|pair| unit(*pair))) {
            text.push(c.ok()?);
        }
        rest.is_empty().then_some(text)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [1..=255, 0, 1..=255, 0, ..] => utf16(bytes, u16::from_le_bytes),
        [0, 1..=255, 0, 1..=255, ..] => utf16(bytes, u16::from_be_bytes),
        _ => {
            let text = str::from_utf8(bytes).ok()?;
            Some(Zeroizing::new(
                text.trim_start_matches('\u{feff}').to_owned(),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_contents_given_as_a_path_are_not_shown() {
        assert!(shown_path(Path::new("/etc/coze/private_key.pem")).is_some());
        for contents in [
            "-----BEGIN PRIVATE KEY-----",
            "a\nb",
            " {\"client_secret\"",
            "\"{\\\"client_secret\\\"",
            "[{\"client_secret\"",
            "<client_secret>",
            &"x".repeat(5000),
            &"MIIEvAIBADANBgkq".repeat(8),
            "MC4CAQAwBQYDK2VwBCIEIHVzaHVzaHVzaHVzaHVzaHVzaHVzaHVzaHVzaHVz",
            &format!("\"{}\"", "LS0tLS1CRUdJTiBQ ".repeat(8)),
        ] {
            assert_eq!(shown_path(Path::new(contents)), None, "{contents}");
        }
        for path in [
            format!("/run/{}/key", "x".repeat(2000)),
            "/home/می‌خواهم/config.json".to_owned(),
        ] {
            let shown = shown_path(Path::new(&path));
            assert!(
                shown.is_some_and(|shown| shown.starts_with(&path[..8])),
                "{path}"
            );
        }
        for secret in ["pat_0123456789abcdef", "client_secret: 0123456789"] {
            let shown = shown_path(Path::new(secret)).unwrap();
            assert!(!shown.contains("0123"), "{shown}");
        }
    }

    #[test]
    fn a_file_up_to_the_limit_is_read_and_a_larger_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, FILE_LIMIT] {
            std::fs::write(&path, vec![7; length]).unwrap();
            assert_eq!(*read(&path).unwrap(), vec![7; length]);
        }
        // The large file is sparse, so it takes no disk space.
        for length in [FILE_LIMIT as u64 + 1, 1 << 40] {
            File::create(&path).unwrap().set_len(length).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert_eq!(error, "it is larger than 256 KiB");
        }
    }

    #[test]
    fn a_missing_file_error_has_advice() {
        for (path, why) in [
            ("", "the path is empty"),
            ("~/key.pem", "~ and variables are not expanded"),
            ("$HOME/key.pem", "~ and variables are not expanded"),
            ("file:///key.pem", "give a path, not a URL"),
            (
                "/nowhere/key.pem\n",
                "the path begins or ends with white space",
            ),
            (
                "'/nowhere/key.pem'",
                "the path begins or ends with white space",
            ),
        ] {
            let error = read(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(why), "{path}: {error}");
            assert!(shown_path(Path::new(path)).is_some(), "{path}");
        }
        let plain = read(Path::new("/nowhere/key.pem")).unwrap_err();
        assert!(plain.raw_os_error().is_some(), "{plain}");
        #[cfg(unix)]
        {
            let folder = tempfile::tempdir().unwrap();
            let link = folder.path().join("link");
            std::os::unix::fs::symlink("nowhere", &link).unwrap();
            let error = read(&link).unwrap_err().to_string();
            assert!(error.contains("a symbolic link whose target"), "{error}");
        }
    }

    #[test]
    fn a_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert_eq!(error, "it is a directory, not a regular file");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_sockets_and_devices_are_refused() {
        use std::os::unix::net::UnixListener;

        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        // The target of a symbolic link is checked, not the link itself.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, what) in [
            (pipe.as_path(), "a named pipe"),
            (&socket, "a socket"),
            (&link, "a device"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read(path).unwrap_err().to_string();
            assert_eq!(error, format!("it is {what}, not a regular file"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn opening_a_pipe_that_replaced_the_file_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let opened = open(&pipe).unwrap();
        assert!(require_regular(&opened.metadata().unwrap()).is_err());
    }

    #[test]
    fn text_is_read_with_and_without_a_byte_order_mark() {
        let utf16 = |mark: [u8; 2], to_bytes: fn(u16) -> [u8; 2]| {
            let units = "é🔑{}\n".encode_utf16().flat_map(to_bytes);
            mark.into_iter().chain(units).collect::<Vec<_>>()
        };
        for bytes in [
            "é🔑{}\n".as_bytes().to_vec(),
            "\u{feff}é🔑{}\n".as_bytes().to_vec(),
            utf16([0xff, 0xfe], u16::to_le_bytes),
            utf16([0xfe, 0xff], u16::to_be_bytes),
        ] {
            let text = text(&bytes);
            assert_eq!(text.as_deref().map(String::as_str), Some("é🔑{}\n"));
        }
        for bytes in [&b"a\0b\0"[..], b"\0a\0b"] {
            assert_eq!(text(bytes).as_deref().map(String::as_str), Some("ab"));
        }
        for bytes in [&b"\xff"[..], b"\xff\xfea", b"\xff\xfe\x00\xd8", b"a\0b\0c"] {
            assert!(text(bytes).is_none(), "{bytes:?}");
        }
    }
}
