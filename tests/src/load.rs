//! Clients that send numbered statements for as long as a test wants.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::mysql::Client;

/// Clients that send numbered statements until told to stop; gives how many each has sent, by connection.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<(u64, u64)>>,
}

impl Load {
    /// Four of them, each with a pause of 200 µs between two statements `select NUMBER`.
    #[must_use]
    pub fn start(socket: &Path) -> Self {
        Self::with_pause(socket, Duration::from_micros(200))
    }

    /// The same with another pause.
    #[must_use]
    pub fn with_pause(socket: &Path, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, socket) = (stop.clone(), socket.to_owned());
            std::thread::spawn(move || {
                let mut client = Client::connect(&socket).expect("connect");
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.query(format!("select {sent}").as_bytes()).expect("query");
                    sent += 1;
                    std::thread::sleep(pause);
                }
                (u64::from(client.id), sent)
            })
        };
        Self { threads: (0..4).map(client).collect(), stop }
    }

    /// Stops them.
    ///
    /// # Panics
    /// If a client failed.
    #[must_use]
    pub fn finish(self) -> HashMap<u64, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|t| t.join().expect("a client")).collect()
    }
}
