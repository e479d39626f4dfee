//! What every implementation of the seam must do, as checks that any of them can run.
//!
//! Each promise in the head of `io/mod.rs` is one check with a sentence for a name. A check panics with what it saw; a run
//! that returns has kept every promise. The production side and the simulator run the same list, so a shard that works in
//! one works in the other, as far as the promises go. A check that needs what a world lacks is left out, and its name is not
//! among those that a run gives.
//!
//! ```text
//!   conformance::all::<Uring>(&world).await    // shards/io/tests.rs
//!   conformance::all::<Sim>(&world).await      // with all faults off
//! ```
//!
//! **Not here**: crashes, torn writes, partitions (the simulator's own tests), speed, ports and preambles (`uring/tests.rs`); a node
//! that is asked to stop, which only who runs the suite can do.

mod channels;
mod disk;
mod network;
mod tasks;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::{Disk, Env, File, Net, PreambleBytes, Reader};

/// What an implementation gives the suite to work on.
pub trait World<E: Env> {
    /// An empty data directory, the same at each call.
    fn disk(&self) -> E::Disk;
    /// A disk with room for fewer than [`SMALL_DISK_BYTES_MAX`], if this world has one.
    fn small_disk(&self) -> Option<E::Disk>;
    /// A shard's network. Connections to [`World::address`] with [`World::preamble`] arrive there and nothing else does.
    fn net(&self) -> E::Net;
    /// Where it listens.
    fn address(&self) -> String;
    /// An address of this world where nobody listens.
    fn silent_address(&self) -> String;
    /// Preambles that lead to it; `tag` tells them apart.
    fn preamble(&self, tag: u8) -> PreambleBytes;
}

/// Bytes that do not fit on [`World::small_disk`].
pub const SMALL_DISK_BYTES_MAX: u64 = 8 << 20;

/// How long a check waits for what must come before it says that it does not.
const PATIENCE: Duration = Duration::from_secs(20);

macro_rules! suite {
    ($($room:ident :: $check:ident $(needs $thing:ident)?),+ $(,)?) => {
        /// Runs every check that this world can, one after the other; returns their names.
        pub async fn all<E: Env>(world: &impl World<E>) -> Vec<&'static str> {
            let mut kept = Vec::new();
            $(if true $(&& world.$thing().is_some())? {
                within::<E, _>(stringify!($check), $room::$check::<E>(world)).await;
                kept.push(stringify!($check));
            })+
            kept
        }
    };
}

suite! {
    tasks::now_never_goes_back,
    tasks::sleep_is_never_early,
    tasks::sleeps_end_in_the_order_of_their_ends,
    tasks::spawned_task_waits_until_its_spawner_does,
    tasks::tasks_run_in_the_order_of_their_wakes,
    tasks::yield_lets_every_ready_task_run,
    tasks::yielding_tasks_do_not_silence_clock_and_disk,
    tasks::random_numbers_differ,
    channels::senders_are_served_in_the_order_of_asking,
    channels::cancelled_waiter_passes_its_turn_on,
    disk::created_file_is_zeroed_and_full_length,
    disk::create_refuses_a_taken_name_and_a_broken_length,
    disk::reserved_file_is_zeroed_and_full_length,
    disk::reserved_file_grows_by_zeros_and_keeps_what_it_has,
    disk::reserve_replaces_a_file_that_is_open,
    disk::durable_write_is_read_back_after_reopening,
    disk::synced_write_is_read_back_after_reopening,
    disk::write_changes_nothing_beside_it,
    disk::big_write_is_whole,
    disk::writes_in_flight_together_all_land,
    disk::nothing_is_read_or_written_beyond_the_end,
    disk::clones_share_the_file,
    disk::rename_replaces,
    disk::list_is_sorted_and_has_files_only,
    disk::missing_file_is_not_found,
    disk::path_outside_is_refused,
    disk::full_disk_refuses_and_keeps_nothing needs small_disk,
    disk::other_tasks_run_during_create,
    network::preamble_and_bytes_arrive_in_order,
    network::connection_waits_to_be_accepted,
    network::sender_faster_than_reader_loses_nothing,
    network::bytes_before_the_end_arrive_and_then_the_end,
    network::shutdown_ends_the_own_reader,
    network::dropped_connection_ends_the_other_side,
    network::dropped_half_leaves_the_other_working,
    network::dropped_read_consumes_nothing,
    network::dropped_accept_loses_nothing,
    network::many_connections_at_once,
    network::connect_to_nobody_fails,
    network::nobody_is_accepted_after_the_close,
}

/// Runs a check under [`PATIENCE`].
async fn within<E: Env, T>(name: &'static str, check: impl Future<Output = T>) -> T {
    match race(check, E::sleep(PATIENCE)).await {
        Some(done) => done,
        None => panic!("{name}: not done after {PATIENCE:?}"),
    }
}

/// `work`'s result, or `None` when `limit` ends first.
async fn race<T>(work: impl Future<Output = T>, limit: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut limit) = (pin!(work), pin!(limit));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Polls `work` once; `None` when it waits.
async fn once<T>(work: impl Future<Output = T>) -> Option<T> {
    race(work, std::future::ready(())).await
}
