//! What a thread that makes system calls asks of the kernel for itself.

/// Lets others have more of the processor, for as long as this thread lives: where files are near, several threads that
/// copy take all that they can get, and claims wait.
pub(crate) fn give_way() {
    /// As `nice` counts: a third of the weight of others. The least, 19, would be a 70th, with which a thread as good as
    /// stands still for as long as any process of the machine has something to do.
    const LESS: i32 = 5;
    // Linux takes the process "none" for the calling thread. Anybody may lower a priority; should it fail
    // nevertheless, the work is done all the same.
    let _ = rustix::process::setpriority_process(None, LESS);
}
