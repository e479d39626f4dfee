//! How a connection begins: who speaks which version to whom. And the whole of one to a shard that did not start.

use ringbeam_wire::client::{self, Encoder, Hello, ReplyBody, RequestBody, Status, Welcome};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::preamble;
use ringbeam_wire::refusal::{Code, Refusal};

use crate::io::{Env, Net, Reader, Writer};
use crate::limits::SEND_STALL_MAX;
use crate::raft::runtime::timeout;
use crate::shard::{Settings, Shard};

pub(super) fn greet<E: Env>(shard: &Shard<E>, hello: &Hello<'_>) -> ReplyBody<'static> {
    let version = preamble::VERSION;
    if hello.version_min > version || hello.version_max < version {
        let why =
            format!("client protocol versions {} to {}; this node speaks {version}", hello.version_min, hello.version_max);
        return ReplyBody::Refused(Refusal::new(Code::UnsupportedVersion, why));
    }
    let settings = &shard.settings;
    if hello.ring != 0 && hello.ring != settings.ring {
        let why = format!("you expect ring {:016x}; this node is of ring {:016x}", hello.ring, settings.ring);
        return ReplyBody::Refused(Refusal::new(Code::WrongRing, why));
    }
    welcome(settings)
}

fn welcome(settings: &Settings) -> ReplyBody<'static> {
    ReplyBody::Welcome(Welcome {
        version: preamble::VERSION,
        features: 0,
        ring: settings.ring,
        node: settings.node.node,
        shard: settings.shard,
        key_bytes_max: settings.key_bytes_max as u32,
        value_bytes_max: settings.value_bytes_max as u32,
        session_window: settings.state.session_window,
        server: format!("ringbeam {}", settings.version),
    })
}

/// Serves a client of a shard that did not start: it learns why, whatever it asks.
pub(crate) async fn refuse<E: Env>(
    settings: Settings,
    why: String,
    mut reader: <E::Net as Net>::Reader,
    mut writer: <E::Net as Net>::Writer,
) {
    // As the shard would: what it would take is answered, too.
    let mut decoder = Decoder::new(settings.frame_bytes_max());
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    loop {
        match timeout::<E, _>(SEND_STALL_MAX, reader.read(decoder.space())).await {
            Ok(Ok(bytes)) if bytes > 0 => decoder.filled(bytes),
            _ => return,
        }
        let malformed = loop {
            let request = match decoder.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break None,
                Err(e) => break Some((0, e.to_string())),
            };
            let request = match client::parse_request(&request) {
                Ok(request) => request,
                Err(e) => break Some((e.id.unwrap_or(0), e.to_string())),
            };
            let body = match request.body {
                RequestBody::GetStatus => ReplyBody::Status(Box::new(Status {
                    node: settings.node.node,
                    ring: settings.ring,
                    shard: settings.shard,
                    shards: settings.shards,
                    version: settings.version.clone(),
                    role: settings.node.role,
                    raft_state: "stopped".to_string(),
                    fault: Some(why.clone()),
                    ..Status::default()
                })),
                RequestBody::Hello(_) => welcome(&settings),
                _ => ReplyBody::Refused(Refusal::new(Code::ShardFault, why.clone())),
            };
            encoder.reply(&mut out, request.id, &body);
        };
        if let Some((id, why)) = &malformed {
            encoder.reply(&mut out, *id, &ReplyBody::Refused(Refusal::new(Code::BadRequest, why.clone())));
        }
        if writer.write_all(&out).await.is_err() || malformed.is_some() {
            return;
        }
        out.clear();
    }
}
