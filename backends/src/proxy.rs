//! A connection that breaks when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// At what a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// The next bytes of a client: they do not arrive.
    Request,
    /// The next bytes of the server: it did what it was asked, and nobody hears of it.
    Reply,
    /// In the middle of the next bytes of the server.
    Middle,
}

/// Forwards connections to a port of this machine.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    armed: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    /// Forwards to `target` until the process ends.
    pub fn start(target: u16) -> Self {
        Self::changing(target, &[], &[])
    }

    /// Forwards, too, and puts `to` wherever the server says `from`, which is as long: a server that says something
    /// else than it is. What is cut in two by the network stays.
    pub fn changing(target: u16, from: &[u8], to: &[u8]) -> Self {
        assert_eq!(from.len(), to.len(), "lengths are said elsewhere, too");
        let change: Change = Arc::new((from.to_vec(), to.to_vec()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed: Arc<Mutex<Option<Cut>>> = Arc::default();
        let shared = Arc::clone(&armed);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client of a server that is away is cut, too.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    forward(client, server, &shared, &change);
                }
            }
        });
        Self { port, armed }
    }

    /// Cuts one connection at the next such moment.
    pub fn arm(&self, cut: Cut) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }

    /// Whether what it was told has not happened yet; forgets it.
    pub fn disarm(&self) -> bool {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.take().is_some()
    }
}

/// What is replaced by what.
type Change = Arc<(Vec<u8>, Vec<u8>)>;

fn forward(client: TcpStream, server: TcpStream, armed: &Arc<Mutex<Option<Cut>>>, change: &Change) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (up, down) = (Arc::clone(armed), Arc::clone(armed));
    let change = Arc::clone(change);
    std::thread::spawn(move || pump(client, server, &up, &[Cut::Request], &Change::default()));
    std::thread::spawn(move || {
        let cuts = [Cut::Reply, Cut::Middle];
        pump(server_too, client_too, &down, &cuts, &change);
    });
}

/// Copies one way until a stream ends or is cut, and closes both.
fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    armed: &Mutex<Option<Cut>>,
    cuts: &[Cut],
    change: &Change,
) {
    let mut chunk = [0; 16 << 10];
    while let Ok(read) = from.read(&mut chunk) {
        replace(&mut chunk[..read], change);
        let cut = take(armed, cuts);
        let passed = match cut {
            None => read,
            Some(Cut::Middle) => read / 2,
            Some(Cut::Request | Cut::Reply) => 0,
        };
        let written = to.write_all(&chunk[..passed]);
        if read == 0 || cut.is_some() || written.is_err() {
            break;
        }
    }
    // Either may be closed already.
    let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn replace(chunk: &mut [u8], change: &Change) {
    let (from, to) = &**change;
    if from.is_empty() {
        return;
    }
    for at in 0..chunk.len().saturating_sub(from.len() - 1) {
        let part = &mut chunk[at..at + from.len()];
        if part == from {
            part.copy_from_slice(to);
        }
    }
}

fn take(armed: &Mutex<Option<Cut>>, cuts: &[Cut]) -> Option<Cut> {
    let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
    armed.take_if(|cut| cuts.contains(cut))
}
