//! The tasks of a node, which end with it.

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// Tasks that end when this is dropped.
#[derive(Default)]
pub(super) struct Tasks {
    pub running: Mutex<Vec<AbortHandle>>,
    pub collectors: Mutex<Vec<AbortHandle>>,
}

impl Tasks {
    pub fn stop_collectors(&self) {
        for collector in self.collectors.lock().drain(..) {
            collector.abort();
        }
    }

    /// Stops all of them.
    pub fn stop(&self) {
        self.stop_collectors();
        for task in self.running.lock().drain(..) {
            task.abort();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop();
    }
}
