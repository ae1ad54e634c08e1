//! The tasks of a list, which end with it.

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// Tasks that end when this is dropped.
#[derive(Default)]
pub(super) struct Tasks {
    pub running: Mutex<Vec<AbortHandle>>,
    pub collector: Mutex<Option<AbortHandle>>,
}

impl Tasks {
    pub fn stop_collector(&self) {
        if let Some(collector) = self.collector.lock().take() {
            collector.abort();
        }
    }

    /// Stops all of them.
    pub fn stop(&self) {
        self.stop_collector();
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
