//! Every bound of the wire, with its unit and its reason. A thing beyond its bound is refused by name with the limit in the
//! message; `check_*` make those refusals, so that node and SDK say the same.

use crate::refusal::{Code, Refusal};

/// Longest key, bytes. Keys live in memory in every node's ordered map and in every index block; 4 KiB is room for any path.
pub const KEY_BYTES_MAX: u32 = 4096;

/// Longest value unless configured, bytes. One value must not hold the shard's log for longer than a few fsyncs.
pub const VALUE_BYTES_DEFAULT_MAX: u32 = 1 << 20;

/// Longest value that may be configured, bytes. A batch is one log entry and one peer frame, held whole in memory on every node.
pub const VALUE_BYTES_HARD_MAX: u32 = 16 << 20;

/// Longest namespace name, bytes of UTF-8. It is repeated in every write of the log.
pub const NAMESPACE_BYTES_MAX: u32 = 64;

/// Most shards of a ring. Shards are cores; no node has more, and the topology message lists them all.
pub const SHARDS_MAX: u32 = 256;

/// Most members in one message. Seven vote; the rest are observers, each of which costs the leader a stream.
pub const MEMBERS_MAX: u32 = 1024;

/// Most compares and steps of a transaction, both lists together. One write of the log holds the core while it is applied.
pub const TRANSACTION_PARTS_MAX: u32 = 128;

/// What the gets of one transaction may find, bytes of values and 16 for each. The answer is replicated state until the client has it.
pub const TRANSACTION_RESULT_BYTES_MAX: u32 = 64 << 10;

/// Most keys of one `GetMany`. It is answered without a pause.
pub const GET_MANY_KEYS_MAX: u32 = 128;

/// All keys of one `GetMany` together, bytes: it fits the frames of a ring whose values are short.
pub const GET_MANY_KEY_BYTES_MAX: u32 = 8 << 10;

/// Most items of one page of a `Scan`. It is answered without a pause.
pub const SCAN_ITEMS_MAX: u32 = 1000;

/// Most keys of one slice of a `DeleteRange`. One write of the log holds the core while it is applied.
pub const DELETE_RANGE_KEYS_MAX: u32 = 1000;

/// Longest time of a lease or a key, milliseconds: a hundred years; sums of it and ring time stay far from overflow.
pub const LEASE_TTL_MS_MAX: u64 = 100 * 365 * 86_400_000;

/// Shortest time of a lease, milliseconds: it must survive an election and a lost message. Keys may go earlier.
pub const LEASE_TTL_MS_MIN: u64 = 1000;

/// Keys and values of one page of a `Scan` or one answer to `GetMany`, bytes; one item more may go beyond.
pub const ITEMS_BYTES_MAX: u32 = 256 << 10;

/// What a request's frame may need beyond its namespace, key and value, bytes: header, tables, alignment (about 130), or a
/// `Hello` with the client's name, or an address; or the tables of a transaction of [`TRANSACTION_PARTS_MAX`] parts, or the keys of a
/// `GetMany` beyond one.
pub const FRAME_OVERHEAD_BYTES_MAX: u32 = 16 << 10;

/// Longest payload of a peer frame, bytes. One entry holds at least one write of the largest value, and an append is allowed to
/// gather as much again before it is cut.
pub const PEER_FRAME_BYTES_MAX: u32 = 2 * (VALUE_BYTES_HARD_MAX + KEY_BYTES_MAX + NAMESPACE_BYTES_MAX) + (1 << 20);

/// Longest payload of a reply, bytes: a page and the largest value behind it, or a topology of [`MEMBERS_MAX`] members.
pub const REPLY_FRAME_BYTES_MAX: u32 =
    VALUE_BYTES_HARD_MAX + KEY_BYTES_MAX + ITEMS_BYTES_MAX + SCAN_ITEMS_MAX * 64 + FRAME_OVERHEAD_BYTES_MAX;

const _: () = assert!(VALUE_BYTES_DEFAULT_MAX <= VALUE_BYTES_HARD_MAX);
const _: () = assert!(REPLY_FRAME_BYTES_MAX >= MEMBERS_MAX * 2048, "a member is five short strings and three numbers");

/// Longest payload of a request on a node whose values may have `value_bytes_max` bytes.
pub const fn request_frame_bytes_max(value_bytes_max: u32) -> u32 {
    value_bytes_max + KEY_BYTES_MAX + NAMESPACE_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX
}

/// Refuses a namespace name that is too long.
pub fn check_namespace(namespace: &str) -> Result<(), Refusal> {
    if namespace.len() <= NAMESPACE_BYTES_MAX as usize {
        return Ok(());
    }
    let bytes = namespace.len();
    Err(Refusal::new(Code::BadNamespace, format!("the namespace has {bytes} bytes, the limit is {NAMESPACE_BYTES_MAX}")))
}

/// Refuses a key that is empty or too long.
pub fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::new(Code::KeyEmpty, format!("the key is empty, it needs 1 to {KEY_BYTES_MAX} bytes")));
    }
    if key.len() <= KEY_BYTES_MAX as usize {
        return Ok(());
    }
    Err(Refusal::new(Code::KeyTooLarge, format!("the key has {} bytes, the limit is {KEY_BYTES_MAX}", key.len())))
}

/// Refuses a value longer than `value_bytes_max`.
pub fn check_value(value: &[u8], value_bytes_max: u32) -> Result<(), Refusal> {
    if value.len() <= value_bytes_max as usize {
        return Ok(());
    }
    Err(Refusal::new(Code::ValueTooLarge, format!("the value has {} bytes, the limit is {value_bytes_max}", value.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_value_and_the_limit() {
        let message = |result: Result<(), Refusal>| result.map_err(|refusal| (refusal.code, refusal.message));
        assert_eq!(message(check_key(b"")), Err((Code::KeyEmpty, "the key is empty, it needs 1 to 4096 bytes".into())));
        assert_eq!(
            message(check_key(&[b'k'; 4097])),
            Err((Code::KeyTooLarge, "the key has 4097 bytes, the limit is 4096".into()))
        );
        assert_eq!(
            message(check_value(&[0; 9], 8)),
            Err((Code::ValueTooLarge, "the value has 9 bytes, the limit is 8".into()))
        );
        assert_eq!(
            message(check_namespace(&"n".repeat(65))),
            Err((Code::BadNamespace, "the namespace has 65 bytes, the limit is 64".into()))
        );
        assert!(check_key(&[b'k'; 4096]).and(check_value(&[0; 8], 8)).and(check_namespace(&"n".repeat(64))).is_ok());
    }

    #[test]
    fn the_largest_write_fits_the_largest_frame() {
        use crate::client::{Encoder, GetMany, Life, Put, RequestBody, Step, Transact};
        let (key, namespace) = (vec![b'k'; KEY_BYTES_MAX as usize], "n".repeat(NAMESPACE_BYTES_MAX as usize));
        for value_bytes_max in [1, VALUE_BYTES_DEFAULT_MAX, VALUE_BYTES_HARD_MAX] {
            let value = vec![1; value_bytes_max as usize];
            let (session, sequence, answered_below) = (u64::MAX, u64::MAX, u64::MAX);
            let life = Life { ttl_ms: u64::MAX, lease: u64::MAX };
            let put = Put { namespace: &namespace, key: &key, value: &value, session, sequence, answered_below, life };
            let parts = TRANSACTION_PARTS_MAX as usize;
            let names: Vec<String> = (1000..1000 + parts).map(|n| n.to_string()).collect();
            let get = GET_MANY_KEY_BYTES_MAX as usize / GET_MANY_KEYS_MAX as usize;
            let keys = vec![&key[..get]; GET_MANY_KEYS_MAX as usize];
            let many = GetMany { namespace: &namespace, keys, ..GetMany::default() };
            assert_eq!(many.check(), Ok(()));
            let mut bodies = vec![RequestBody::Put(put), RequestBody::GetMany(Box::new(many))];
            if let Some(each) = (value_bytes_max as usize).checked_sub(parts * 12).map(|bytes| bytes / parts) {
                let then = names.iter().map(|name| Step::put(name, &value[..each])).collect();
                let transact =
                    Transact { namespace: &namespace, then, session, sequence, answered_below, ..Transact::default() };
                assert_eq!(transact.check(value_bytes_max, 1), Ok(()));
                bodies.push(RequestBody::Transact(Box::new(transact)));
            }
            for body in bodies {
                let mut frame = Vec::new();
                Encoder::new().request(&mut frame, u64::MAX, u32::MAX, &body);
                let payload_bytes = frame.len() - crate::frame::HEADER_BYTES;
                assert!(payload_bytes <= request_frame_bytes_max(value_bytes_max) as usize, "{payload_bytes}");
            }
        }
    }
}
