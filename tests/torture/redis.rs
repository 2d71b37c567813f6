//! A private Redis server: `redis-server` on a free loopback port.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::Result;
use crate::background::{Background, ends_with_input};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Another program may take a free port before it is used.
const PORTS_TRIED: usize = 5;

pub(crate) struct Redis {
    _program: Background,
    pub(crate) url: String,
}

impl Redis {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let installed = std::process::Command::new("redis-server")
            .arg("--version")
            .output();
        if installed.is_err() {
            return Err("redis-server is not installed: `apt-get install redis-server`".into());
        }
        let folder = folder.canonicalize()?;
        for _ in 0..PORTS_TRIED {
            if let Some(redis) = Self::start_on_free_port(&folder)? {
                return Ok(redis);
            }
        }
        Err("redis-server ends immediately after its start".into())
    }

    /// `None` if another program took the port first.
    fn start_on_free_port(folder: &Path) -> Result<Option<Self>> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = ends_with_input(Path::new("redis-server"));
        command
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(folder);
        let (program, lines) = Background::start(command)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !answers(address, folder) {
            if has_given_up(&lines) {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Err("redis-server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(Self {
            _program: program,
            url: format!("redis://{address}/"),
        }))
    }
}

/// The supervising shell does not end with it, but its last output shows the failure.
fn has_given_up(lines: &Receiver<String>) -> bool {
    lines
        .try_iter()
        .any(|line| line.contains("Failed listening"))
}

/// Whether the Redis at this address is the one that uses this folder.
fn answers(address: SocketAddr, folder: &Path) -> bool {
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"CONFIG GET dir\r\n")?;
        // An array of two strings, each after its length.
        BufReader::new(stream).lines().nth(4).transpose()
    });
    asked.is_ok_and(|answer| answer.is_some_and(|dir| Path::new(&dir) == folder))
}
