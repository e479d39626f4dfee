//! Bytes that are not a message, and the one place where payloads are verified.

use std::fmt;

use flatbuffers::{Follow, Verifiable, VerifierOptions};

/// Why a payload is not the message it should be. The sender is to blame, and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The message's id, when at least that could be read: then it can be answered.
    pub id: Option<u64>,
    /// The place, the value, and what would be right.
    pub message: String,
}

impl Malformed {
    pub(crate) fn new(id: u64, message: impl Into<String>) -> Malformed {
        Malformed { id: Some(id), message: message.into() }
    }

    pub(crate) fn absent(id: u64, place: &str) -> Malformed {
        Malformed::new(id, format!("{place} is absent, it is required"))
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Malformed {}

/// Deepest nesting of tables: a reply, its topology, a member. The schema has no recursion.
const DEPTH_MAX: usize = 8;
/// Smallest table with its place in a vector, bytes: 4 for the offset to it, 4 for its offset to the vtable.
const TABLE_BYTES_MIN: usize = 8;
/// How much more a verifier may visit than there are bytes. Offsets may meet in one table, so a small payload could describe
/// a huge message; our encoders share nothing but vtables, which at worst doubles what is visited.
const SHARING_MAX: usize = 4;
/// Room for the root and body of messages so small that the factors above say little, bytes.
const SMALL_BYTES: usize = 4096;

/// Verifies `payload` as a `T`, called `what` in the message. Work and memory are bounded by the payload's length.
pub(crate) fn root<'a, T>(payload: &'a [u8], what: &str) -> Result<T::Inner, Malformed>
where
    T: Follow<'a> + Verifiable + 'a,
{
    let options = VerifierOptions {
        max_depth: DEPTH_MAX,
        max_tables: payload.len() / TABLE_BYTES_MIN,
        max_apparent_size: payload.len() * SHARING_MAX + SMALL_BYTES,
        ignore_missing_null_terminator: false,
    };
    flatbuffers::root_with_opts::<T>(&options, payload).map_err(|why| {
        // The verifier writes one line per level; a refusal is one sentence.
        let lines = why.to_string();
        let why = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
        Malformed { id: peek_id(payload), message: format!("the {what} of {} bytes is not valid: {why}", payload.len()) }
    })
}

/// The `id` of a Request, Reply, PeerRequest or PeerReply (field 0 in all four) out of bytes that failed verification.
fn peek_id(payload: &[u8]) -> Option<u64> {
    const VTABLE_ENTRY_OF_ID: usize = 4;
    let u16_at = |at: usize| Some(u16::from_le_bytes(*payload.get(at..)?.first_chunk()?));
    let i32_at = |at: usize| Some(i32::from_le_bytes(*payload.get(at..)?.first_chunk()?));
    let table = usize::try_from(i32_at(0)?).ok()?;
    let vtable = usize::try_from(i64::try_from(table).ok()? - i64::from(i32_at(table)?)).ok()?;
    if usize::from(u16_at(vtable)?) < VTABLE_ENTRY_OF_ID + 2 {
        return Some(0);
    }
    match u16_at(vtable + VTABLE_ENTRY_OF_ID)? {
        0 => Some(0), // a default is not stored
        offset => Some(u64::from_le_bytes(*payload.get(table + usize::from(offset)..)?.first_chunk()?)),
    }
}

#[cfg(test)]
mod tests {
    use flatbuffers::FlatBufferBuilder;

    use crate::{client, peer, schema};

    type Builder = FlatBufferBuilder<'static>;

    /// A request that our encoder would not make.
    fn request(body_type: schema::RequestBody, body: impl FnOnce(&mut Builder) -> u32) -> Vec<u8> {
        let mut b = Builder::new();
        let body = Some(flatbuffers::WIPOffset::new(body(&mut b)));
        let args = schema::RequestArgs { id: 77, deadline_ms: 0, body_type, body };
        let root = schema::Request::create(&mut b, &args);
        b.finish_minimal(root);
        b.finished_data().to_vec()
    }

    fn peer_append(entries: &[schema::EntryArgs<'_>], vote: bool) -> Vec<u8> {
        let mut b = Builder::new();
        let entries: Vec<_> = entries.iter().map(|entry| schema::Entry::create(&mut b, entry)).collect();
        let entries = Some(b.create_vector(&entries));
        let any = schema::Vote::new(1, 1, true);
        let args = schema::AppendArgs { vote: vote.then_some(&any), entries, ..Default::default() };
        let body = Some(schema::Append::create(&mut b, &args).as_union_value());
        let body_type = schema::PeerRequestBody::Append;
        let root = schema::PeerRequest::create(&mut b, &schema::PeerRequestArgs { id: 78, body_type, body });
        b.finish_minimal(root);
        b.finished_data().to_vec()
    }

    fn get(consistency: u8) -> Vec<u8> {
        request(schema::RequestBody::Get, |b| {
            let args = schema::GetArgs { consistency: schema::Consistency(consistency), ..Default::default() };
            schema::Get::create(b, &args).value()
        })
    }

    #[test]
    fn an_unknown_enum_value_is_named_with_its_place() {
        assert!(client::parse_request(&get(1)).is_ok());
        let malformed = client::parse_request(&get(9)).expect_err("9 is no consistency");
        let message = "request.body.consistency is 9, known are 0 (linearizable), 1 (local), 2 (session), 3 (bounded)";
        assert_eq!((malformed.id, malformed.message.as_str()), (Some(77), message));
    }

    #[test]
    fn an_unknown_kind_of_request_is_named_and_can_be_answered() {
        let payload = request(schema::RequestBody(99), |b| schema::Ping::create(b, &schema::PingArgs {}).value());
        let malformed = client::parse_request(&payload).expect_err("99 is no request");
        assert_eq!((malformed.id, malformed.message.as_str()), (Some(77), "request.body is of type 99, known are 1 to 28"));
    }

    #[test]
    fn a_refusal_of_a_later_version_keeps_its_number_and_its_certainty() {
        let mut b = Builder::new();
        let message = Some(b.create_string("the moon is full"));
        let args = schema::RefusedArgs { code: 999, unknown: true, message, ..Default::default() };
        let body = Some(schema::Refused::create(&mut b, &args).as_union_value());
        let args = schema::ReplyArgs { id: 5, body_type: schema::ReplyBody::Refused, body };
        let root = schema::Reply::create(&mut b, &args);
        b.finish_minimal(root);
        let reply = client::parse_reply(b.finished_data()).expect("codes grow");
        let client::ReplyBody::Refused(refusal) = reply.body else { panic!("{reply:?}") };
        assert_eq!((refusal.code, refusal.unknown), (crate::Code::Internal, true));
        assert_eq!(refusal.message, "refusal 999 (unknown to this version): the moon is full");
    }

    #[test]
    fn an_append_is_whole_or_refused() {
        let id = |index| schema::LogId::new(1, 1, index);
        let refused = |entries: &[schema::EntryArgs<'_>], vote| {
            let malformed = peer::parse_request(&peer_append(entries, vote)).expect_err("not an append");
            assert_eq!(malformed.id, Some(78));
            malformed.message
        };
        let good = schema::EntryArgs { id: Some(&id(4)), ..Default::default() };
        assert!(peer::parse_request(&peer_append(&[good], true)).is_ok());
        let (good, bare) = (schema::EntryArgs { id: Some(&id(4)), ..Default::default() }, schema::EntryArgs::default());
        assert_eq!(refused(&[good, bare], true), "request.body.entries[1].id is absent, it is required");
        let odd = schema::EntryArgs { id: Some(&id(4)), kind: schema::EntryKind(7), payload: None };
        let message = "request.body.entries[0].kind is 7, known are 0 (blank), 1 (batch), 2 (membership)";
        assert_eq!(refused(&[odd], true), message);
        let (first, gap) = (id(4), id(6));
        let entry = |id| schema::EntryArgs { id: Some(id), ..Default::default() };
        let message = "request.body.entries[1].id.index is 6, right after 4";
        assert_eq!(refused(&[entry(&first), entry(&gap)], true), message);
        let (last, wrapped) = (id(u64::MAX), id(0));
        assert!(refused(&[entry(&last), entry(&wrapped)], true).contains("entries[1]"), "after the last index comes none");
        assert_eq!(refused(&[], false), "request.body.vote is absent, it is required");
    }

    /// Offsets may meet: a list of 100,000 offsets to one member is 400 KB on the wire and 20 MB of members.
    #[test]
    fn a_small_payload_cannot_describe_a_huge_message() {
        let mut b = Builder::new();
        let region = Some(b.create_string(&"r".repeat(1_000)));
        let member = schema::Member::create(&mut b, &schema::MemberArgs { region, ..Default::default() });
        let members = Some(b.create_vector(&vec![member; 900]));
        let args = schema::TopologyArgs { members, ..Default::default() };
        let body = Some(schema::Topology::create(&mut b, &args).as_union_value());
        let args = schema::ReplyArgs { id: 6, body_type: schema::ReplyBody::Topology, body };
        let root = schema::Reply::create(&mut b, &args);
        b.finish_minimal(root);
        let malformed = client::parse_reply(b.finished_data()).expect_err("900 members in 5 KB");
        assert_eq!(malformed.id, Some(6));
        assert!(malformed.message.contains("Apparent size too large"), "{malformed}");
    }

    #[test]
    fn what_fails_verification_is_one_sentence_with_a_place() {
        let mut payload = request(schema::RequestBody::Hello, |b| {
            let client = Some(b.create_string("name"));
            schema::Hello::create(b, &schema::HelloArgs { client, ..Default::default() }).value()
        });
        let at = payload.windows(4).position(|bytes| bytes == b"name").expect("the name is in there");
        payload[at] = 0xff;
        let malformed = client::parse_request(&payload).expect_err("not UTF-8");
        assert_eq!(malformed.id, Some(77), "what can be read of it can be answered");
        assert!(malformed.message.contains("Utf8 error") && malformed.message.contains("`client`"), "{malformed}");
        assert!(!malformed.message.contains(['\n', '\t']), "{malformed}");
        assert_eq!(client::parse_request(b"").expect_err("nothing").id, None);
    }
}
