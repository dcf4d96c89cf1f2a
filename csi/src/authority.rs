//! Go's gRPC says the path of a Unix socket for `:authority`, in kubelet's registration of plugins and in sidecars before 2023. That is no
//! authority, and hyper's HTTP/2 refuses the call before anybody sees it. On a socket it means nothing: here every call gets `localhost`,
//! in the bytes, before HTTP/2 reads them.
//!
//! Frames are those of RFC 9113, section 4; fields of a header block those of RFC 7541, section 6. A field keeps its place in the table
//! that both sides count, and only its value is another. A value of another length is counted otherwise: that the tables overflow at
//! different fields would take 4 KiB of fields on a connection, and then the connection ends with an error.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

/// What a client says first (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// The head of a frame: length, type, flags, stream.
const HEAD: usize = 9;
/// The type of a frame with a header block.
const HEADERS: u8 = 1;
/// The block ends in this frame.
const END_HEADERS: u8 = 0x4;
/// The first byte says how many bytes of padding end the frame.
const PADDED: u8 = 0x8;
/// Five bytes of priority stand before the block.
const PRIORITY: u8 = 0x20;
/// The longest frame that a client may send who was not told otherwise.
const FRAME_LIMIT: usize = 16_384;
/// The index of `:authority` in the table of fields that everybody knows.
const AUTHORITY: usize = 1;
/// What it becomes.
const LOCALHOST: &[u8] = b"localhost";
/// What is under way between both sides.
const PIPE: usize = 64 << 10;

/// Returns the connection as HTTP/2 can read it. The work ends with either side.
pub(crate) fn readable(stream: UnixStream) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (reader, mut writer) = stream.into_split();
    let (mut from, mut to) = tokio::io::split(ours);
    drop(tokio::spawn(async move {
        let there = async {
            // However it ended, the other side is told.
            drop(forward(reader, &mut to).await);
            drop(to.shutdown().await);
        };
        let back = async {
            drop(tokio::io::copy(&mut from, &mut writer).await);
            drop(writer.shutdown().await);
        };
        tokio::join!(there, back);
    }));
    theirs
}

async fn forward(mut from: OwnedReadHalf, to: &mut (impl tokio::io::AsyncWrite + Unpin)) -> std::io::Result<()> {
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut head = [0; HEAD];
        from.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if head[3] != HEADERS || head[4] & END_HEADERS == 0 || length > FRAME_LIMIT {
            to.write_all(&head).await?;
            let mut body = (&mut from).take(length as u64);
            if tokio::io::copy(&mut body, to).await? < length as u64 {
                return Ok(());
            }
            continue;
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        let payload = rewritten(&payload, head[4]).unwrap_or(payload);
        let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        head[..3].copy_from_slice(&length[1..]);
        to.write_all(&head).await?;
        to.write_all(&payload).await?;
    }
}

/// Returns the payload of a HEADERS frame with another authority; nothing if it is not as it should be, which HTTP/2 then says.
fn rewritten(payload: &[u8], flags: u8) -> Option<Vec<u8>> {
    let padding = if flags & PADDED == 0 { 0 } else { usize::from(*payload.first()?) };
    let start = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = payload.len().checked_sub(padding).filter(|end| *end >= start)?;
    let mut out = payload[..start].to_vec();
    let block = payload.get(start..end)?;
    let mut at = 0;
    while let Some(first) = block.get(at) {
        let from = at;
        // An indexed field, and a new size of the table, are one number.
        let (bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40..0x80 => (6, true),
            0x20..0x40 => (5, false),
            _ => (4, true),
        };
        let name = number(block, &mut at, bits)?;
        if !is_literal {
            out.extend(&block[from..at]);
            continue;
        }
        if name == 0 {
            string(block, &mut at)?;
        }
        let value = at;
        string(block, &mut at)?;
        if name == AUTHORITY {
            out.extend(&block[from..value]);
            // Its length, which one byte holds, without Huffman's code.
            out.push(u8::try_from(LOCALHOST.len()).ok()?);
            out.extend(LOCALHOST);
        } else {
            out.extend(&block[from..at]);
        }
    }
    out.extend(&payload[end..]);
    (out.len() <= FRAME_LIMIT).then_some(out)
}

/// Reads a number that begins in the low `bits` of a byte (RFC 7541, section 5.1).
fn number(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut number = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if number < most {
        return Some(number);
    }
    let mut shift = 0;
    loop {
        let byte = *block.get(*at)?;
        *at += 1;
        number = number.checked_add(usize::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 28)?)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

/// Passes over a string (RFC 7541, section 5.2).
fn string(block: &[u8], at: &mut usize) -> Option<()> {
    let length = number(block, at, 7)?;
    let end = at.checked_add(length).filter(|end| *end <= block.len())?;
    *at = end;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7541, C.3.1, with the path of a socket for the authority: `:method: GET`, `:scheme: http`, `:path: /`.
    fn block(authority: &[u8]) -> Vec<u8> {
        [&[0x82, 0x86, 0x84, 0x41, u8::try_from(authority.len()).unwrap()], authority].concat()
    }

    #[test]
    fn test_the_path_of_a_socket_becomes_localhost() {
        let asked = block(b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fx.sock");
        assert_eq!(rewritten(&asked, END_HEADERS).unwrap(), block(b"localhost"));
        // Fields after it, one with a name of its own, one that is never to be indexed, and a new size of the table.
        let after = b"\x40\x0acustom-key\x0dcustom-header\x10\x08password\x06secret\x3f\xe1\x1f\xbe";
        let asked = [block(b"/x").as_slice(), after].concat();
        assert_eq!(rewritten(&asked, END_HEADERS).unwrap(), [block(b"localhost").as_slice(), after].concat());
    }

    #[test]
    fn test_padding_and_priority_stay() {
        let frame = |authority: &[u8]| [&[3, 0, 0, 0, 0, 16][..], &block(authority), &[0; 3]].concat();
        assert_eq!(rewritten(&frame(b"/run/x"), END_HEADERS | PADDED | PRIORITY).unwrap(), frame(b"localhost"));
        assert_eq!(rewritten(&[9, 0x82], PADDED), None, "more padding than there is");
    }

    #[tokio::test]
    async fn test_a_call_as_kubelet_makes_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = stash_control::listen(&path).unwrap();
        let (service, _seen) = crate::register::RegistrationService::new("/csi/csi.sock".to_owned());
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let services = crate::server::Services::of_registration(service);
        drop(tokio::spawn(crate::server::serve(listener, services, stopped)));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let field = |name: &str, value: &str| {
            let string = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            [vec![0x40], string(name), string(value)].concat()
        };
        let fields = [
            vec![0x83, 0x86],
            [&[0x44, 40][..], b"/pluginregistration.Registration/GetInfo"].concat(),
            [&[0x41, 22][..], b"%2Frun%2Fplugin%2Fsock"].concat(),
            field("content-type", "application/grpc"),
            field("te", "trailers"),
        ];
        let fields = fields.concat();
        let frame = |kind: u8, flags: u8, stream: u8, body: &[u8]| {
            [&[0, 0, u8::try_from(body.len()).unwrap(), kind, flags, 0, 0, 0, stream][..], body].concat()
        };
        let said = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &fields),
            frame(0, 1, 1, &[0; 5]),
        ];
        stream.write_all(&said.concat()).await.unwrap();
        let mut answer = Vec::<u8>::new();
        while !answer.windows(13).any(|bytes| bytes == b"/csi/csi.sock") {
            let mut bytes = [0; 1024];
            let read = tokio::time::timeout(std::time::Duration::from_secs(10), stream.read(&mut bytes)).await;
            let read = read.expect("an answer").unwrap();
            assert!(read > 0, "{answer:?}");
            answer.extend(&bytes[..read]);
        }
    }

    proptest! {
        #[test]
        fn test_whatever_is_sent_nothing_panics(payload in proptest::collection::vec(any::<u8>(), 0..200), flags: u8) {
            if let Some(out) = rewritten(&payload, flags) {
                // What has no authority goes through as it is.
                let names_it = payload.iter().any(|byte| [0x41, 0x01, 0x11].contains(byte));
                prop_assert!(names_it || out == payload);
            }
        }
    }
}
