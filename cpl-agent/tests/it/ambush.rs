//! Somebody who takes an address between the driver's last look and HAProxy's bind.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;

use cpl_core::clock::{Clock, Monotonic, Timestamp};
use cpl_host::SystemClock;
use futures::future::BoxFuture;

/// A clock that, when it is read for the first time after a file names the address, listens there.
#[derive(Debug)]
pub(crate) struct Ambush {
    clock: SystemClock,
    file: PathBuf,
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Waiting,
    Holding(#[expect(dead_code, reason = "it holds the address")] TcpListener),
    Over,
}

impl Ambush {
    pub(crate) fn new(file: PathBuf, address: SocketAddr) -> Self {
        Self {
            clock: SystemClock::new(),
            file,
            address,
            state: Mutex::new(State::Waiting),
        }
    }

    pub(crate) fn happened(&self) -> bool {
        matches!(*self.state.lock().unwrap(), State::Holding(_))
    }

    pub(crate) fn retreat(&self) {
        *self.state.lock().unwrap() = State::Over;
    }
}

impl Clock for Ambush {
    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    fn monotonic(&self) -> Monotonic {
        let mut state = self.state.lock().unwrap();
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        if matches!(*state, State::Waiting) && text.contains(&self.address.to_string()) {
            *state = State::Holding(TcpListener::bind(self.address).unwrap());
        }
        self.clock.monotonic()
    }

    fn sleep_until(&self, until: Monotonic) -> BoxFuture<'static, ()> {
        self.clock.sleep_until(until)
    }
}
