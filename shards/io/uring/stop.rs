//! The way out: a flag that a signal handler may set and that every executor looks at.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Set once, never cleared.
#[derive(Debug, Default)]
pub struct StopFlag(AtomicBool);

impl StopFlag {
    /// Not set.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Asks every executor to stop. Safe in a signal handler.
    pub fn stop(&self) {
        // Release, with the acquire below: who sees the flag sees what was done before it was set.
        self.0.store(true, Ordering::Release);
    }

    /// Somebody asked.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// SIGTERM and SIGINT set this flag from now on. One flag a process: a second call with another flag is an error.
    pub fn stop_on_signals(self: &Arc<Self>) -> io::Result<()> {
        let signalled = SIGNALLED.get_or_init(|| self.clone());
        if !Arc::ptr_eq(signalled, self) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "signals already stop another flag"));
        }
        for signal in [libc::SIGTERM, libc::SIGINT] {
            // SAFETY: an all-zero sigaction is a valid one (default action, empty mask, no flags).
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            let handler: extern "C" fn(libc::c_int) = on_signal;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            // SAFETY: `action` is initialised and lives across the call; `on_signal` only loads and stores atomics.
            if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

static SIGNALLED: OnceLock<Arc<StopFlag>> = OnceLock::new();

extern "C" fn on_signal(_signal: libc::c_int) {
    if let Some(flag) = SIGNALLED.get() {
        flag.stop();
    }
}
