//! How a connection is opened: TCP, the 16 bytes of the preamble, Hello, Welcome.

use std::fmt;
use std::sync::Arc;

use ringbeam_wire::client::{Encoder, Hello, ReplyBody, RequestBody, Welcome, parse_reply};
use ringbeam_wire::frame::Decoder;
use ringbeam_wire::limits::REPLY_FRAME_BYTES_MAX;
use ringbeam_wire::preamble::{Kind, Preamble, VERSION};
use ringbeam_wire::refusal::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::connection::{Connection, Doubt, NOBODY};
use crate::driver::Driver;
use crate::error::Error;
use crate::health::Health;
use crate::routing::Address;

/// Why a connection could not be opened.
#[derive(Clone, Debug)]
pub(crate) enum OpenError {
    /// The address does not answer.
    Connect(String),
    /// The node refused the Hello.
    Refused(String, Refusal),
    /// What answers is not a node of this ring.
    Protocol(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Connect(why) | OpenError::Protocol(why) => f.write_str(why),
            OpenError::Refused(address, refusal) => write!(f, "{address}: {refusal}"),
        }
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Error {
        match error {
            OpenError::Connect(why) => Error::Connect(why),
            OpenError::Refused(_, refusal) => Error::Refused(refusal),
            OpenError::Protocol(why) => Error::Protocol(why),
        }
    }
}

/// A connection on which a node has said welcome.
pub(crate) struct Line {
    pub(crate) reader: OwnedReadHalf,
    pub(crate) writer: OwnedWriteHalf,
    pub(crate) encoder: Encoder,
    pub(crate) decoder: Decoder,
    pub(crate) welcome: Welcome,
}

/// Opens a connection and starts its driver on the current runtime. `ring` 0: any ring.
pub(crate) async fn open(
    address: &Address,
    shard: u32,
    ring: u64,
    client: &str,
    doubt: &Doubt,
    health: &Arc<Health>,
) -> Result<Arc<Connection>, OpenError> {
    let Line { reader, writer, encoder, decoder, welcome } = dial(address, shard, ring, client).await?;
    let connection = Arc::new(Connection::new(address.clone(), welcome, writer, encoder, doubt.clone(), health.clone()));
    connection.follow();
    tokio::spawn(Driver::run(connection.clone(), reader, decoder));
    Ok(connection)
}

/// Connects, and says hello.
pub(crate) async fn dial(address: &Address, shard: u32, ring: u64, client: &str) -> Result<Line, OpenError> {
    let failed = |what: &str, error: std::io::Error| OpenError::Connect(format!("{address}: {what}: {error}"));
    let stream = TcpStream::connect(&**address).await.map_err(|error| failed("cannot connect", error))?;
    stream.set_nodelay(true).map_err(|error| failed("cannot set TCP_NODELAY", error))?;
    let (mut reader, mut writer) = stream.into_split();

    let mut encoder = Encoder::new();
    let mut out = Preamble { version: VERSION, kind: Kind::Client, shard }.encode().to_vec();
    let hello = Hello { version_min: VERSION, version_max: VERSION, features: 0, ring, client };
    encoder.request(&mut out, NOBODY, 0, &RequestBody::Hello(hello));
    writer.write_all(&out).await.map_err(|error| failed("cannot send Hello", error))?;

    let mut decoder = Decoder::new(REPLY_FRAME_BYTES_MAX as usize);
    let welcome = welcome(&mut reader, &mut decoder, address).await?;
    let wrong = |what: String| Err(OpenError::Protocol(format!("{address}: {what}")));
    if welcome.version != VERSION {
        return wrong(format!("the node speaks protocol version {}, this SDK speaks {VERSION}", welcome.version));
    }
    if ring != 0 && welcome.ring != ring {
        return wrong(format!("the node is of ring {:x}, expected was {ring:x}", welcome.ring));
    }
    if welcome.shard != shard {
        return wrong(format!("shard {} answered, asked was shard {shard}", welcome.shard));
    }
    Ok(Line { reader, writer, encoder, decoder, welcome })
}

async fn welcome(reader: &mut OwnedReadHalf, decoder: &mut Decoder, address: &Address) -> Result<Welcome, OpenError> {
    loop {
        let next = decoder.next().map_err(|error| OpenError::Protocol(format!("{address}: {error}")))?;
        if let Some(payload) = next {
            let reply = parse_reply(&payload)
                .map_err(|malformed| OpenError::Protocol(format!("{address}: no sensible answer to Hello: {malformed}")))?;
            return match reply.body {
                ReplyBody::Welcome(welcome) => Ok(welcome),
                ReplyBody::Refused(refusal) => Err(OpenError::Refused(address.to_string(), refusal)),
                _ => Err(OpenError::Protocol(format!("{address}: the answer to Hello is neither Welcome nor Refused"))),
            };
        }
        let bytes = reader
            .read(decoder.space())
            .await
            .map_err(|error| OpenError::Connect(format!("{address}: the connection ended before Welcome: {error}")))?;
        if bytes == 0 {
            return Err(OpenError::Connect(format!("{address}: the node closed the connection before Welcome")));
        }
        decoder.filled(bytes);
    }
}
