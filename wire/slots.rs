//! Which slot a key is in, and which shard a slot is on.
//!
//! ```text
//!  key  ->  {tag} inside the key, or the whole key  ->  crc32 mod 4096 = slot  ->  topology: slot -> shard
//! ```
//!
//! Clients look the shard up in the topology's ranges. [`shard_of`] and [`ranges`] are how a ring divides the slots when it is
//! founded; clients do not compute them, so that shards can be split later.

/// Number of slots. A ring can never have more shards.
pub const SLOTS: u16 = 4096;

const _: () = assert!(SLOTS.is_power_of_two(), "a power of two: the modulus keeps the checksum's uniformity");
const _: () = assert!(crate::limits::SHARDS_MAX <= SLOTS as u32, "every shard has a slot");

/// The slot of a key: CRC32 (IEEE, as in zlib) of [`tag_of`] the key, modulo [`SLOTS`]. Namespaces do not matter.
pub fn slot_of(key: &[u8]) -> u16 {
    let slot = crc32fast::hash(tag_of(key)) % u32::from(SLOTS);
    slot as u16 // below 4096
}

/// The part of a key that decides its slot: the bytes between the first `{` and the first `}` after it if there are any,
/// else the whole key. (The rule of Redis Cluster.)
pub fn tag_of(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let after = &key[open + 1..];
    match after.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &after[..close],
    }
}

/// The shard of a slot when `shards` shards divide the slots equally. `shards` is 1 to [`crate::limits::SHARDS_MAX`].
pub fn shard_of(slot: u16, shards: u32) -> u32 {
    debug_assert!(slot < SLOTS && (1..=crate::limits::SHARDS_MAX).contains(&shards));
    u32::from(slot) * shards / u32::from(SLOTS)
}

/// The half-open slot ranges (first, end, shard) of a founding, in order and without gaps.
pub fn ranges(shards: u32) -> Vec<(u16, u16, u32)> {
    // Shard s owns the slots with slot * shards / SLOTS == s: from ceil(s * SLOTS / shards).
    let first = |shard: u32| (shard * u32::from(SLOTS)).div_ceil(shards) as u16; // at most 4096
    (0..shards).map(|shard| (first(shard), first(shard + 1), shard)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_follows_the_rules_of_redis_cluster() {
        let tag = |key: &'static str| std::str::from_utf8(tag_of(key.as_bytes())).expect("ASCII");
        assert_eq!(tag("{user1000}.following"), "user1000");
        assert_eq!(tag("a{b}c"), "b");
        assert_eq!(tag("foo{}{bar}"), "foo{}{bar}", "an empty first tag is none");
        assert_eq!(tag("foo{{bar}}zap"), "{bar", "from the first opening brace to the first closing one after it");
        assert_eq!(tag("foo{bar}{zap}"), "bar");
        assert_eq!(tag("foo{bar"), "foo{bar");
        assert_eq!(tag("}{a}"), "a", "a closing brace before the opening one is nothing");
        assert_eq!(tag("plain"), "plain");
        assert_eq!(tag("{"), "{");
        assert_eq!(tag(""), "");
    }

    #[test]
    fn ranges_and_shard_of_agree_for_every_slot_and_shard_count() {
        for shards in 1..=crate::limits::SHARDS_MAX {
            let ranges = ranges(shards);
            assert_eq!(ranges.len(), shards as usize);
            let mut next = 0;
            for (first, end, shard) in ranges {
                assert_eq!(first, next, "no gap before shard {shard} of {shards}");
                assert!(first < end, "shard {shard} of {shards} has slots");
                assert!((first..end).all(|slot| shard_of(slot, shards) == shard));
                next = end;
            }
            assert_eq!(next, SLOTS);
        }
    }
}
