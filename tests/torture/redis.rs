//! A Redis server of one's own: Debian's `redis-server` on a free loopback port.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::background::{Background, ends_with_input};

const START_AT_MOST: Duration = Duration::from_secs(10);

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
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = ends_with_input(Path::new("redis-server"));
        command
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(folder);
        let (program, _) = Background::start(command)?;
        let redis = Self {
            _program: program,
            url: format!("redis://{address}/"),
        };
        let deadline = Instant::now() + START_AT_MOST;
        while !answers(&address.to_string()) {
            if Instant::now() >= deadline {
                return Err("redis-server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }
}

fn answers(address: &str) -> bool {
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut pong = [0; 5];
        stream.read_exact(&mut pong)?;
        Ok(pong)
    });
    asked.is_ok_and(|pong| &pong == b"+PONG")
}
