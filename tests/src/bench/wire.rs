//! What a load's client says first on each connection, and what follows.
//!
//! | first | then |
//! |---|---|
//! | `Echo` | the server sends back every byte |
//! | `Once` | the server sends back one byte and closes |
//! | `Upload` + span | the client sends until it closes; the server answers with how much came in the span |
//! | `Download` | the server sends until the client has enough |

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How much is read or written at once in bulk.
pub const BLOCK: usize = 256 * 1024;
/// How much is echoed at once: small, so that ten thousand idle connections cost the server little.
pub const ECHO_BLOCK: usize = 4 * 1024;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Bytes come back.
    Echo,
    /// One byte comes back, then the end.
    Once,
    /// Bytes go up; the span begins when the server reads this.
    Upload(Span),
    /// Bytes come down.
    Download,
}

impl Request {
    /// Sends it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write(self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(9);
        match self {
            Self::Echo => bytes.push(b'e'),
            Self::Once => bytes.push(b'o'),
            Self::Upload(span) => {
                bytes.push(b'u');
                for part in [span.warm_up, span.time] {
                    let millis = u32::try_from(part.as_millis()).unwrap_or(u32::MAX);
                    bytes.extend_from_slice(&millis.to_be_bytes());
                }
            }
            Self::Download => bytes.push(b'd'),
        }
        writer.write_all(&bytes).await
    }

    /// Receives it.
    ///
    /// # Errors
    /// Those of the connection, and `InvalidData` for what is no request.
    pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        match reader.read_u8().await? {
            b'e' => Ok(Self::Echo),
            b'o' => Ok(Self::Once),
            b'u' => {
                let warm_up = Duration::from_millis(reader.read_u32().await?.into());
                let time = Duration::from_millis(reader.read_u32().await?.into());
                Ok(Self::Upload(Span { warm_up, time }))
            }
            b'd' => Ok(Self::Download),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// When bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Not counted: a path's first connection, and windows that grow.
    pub warm_up: Duration,
    /// What is counted.
    pub time: Duration,
}

/// How much came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes within the span.
    pub counted: u64,
    /// All bytes.
    pub all: u64,
}

impl Volume {
    /// Sends it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write(self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        writer.write_u64(self.counted).await?;
        writer.write_u64(self.all).await
    }

    /// Receives it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        Ok(Self { counted: reader.read_u64().await?, all: reader.read_u64().await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_and_volumes_read_back_as_they_were_written() {
        let (mut here, mut there) = tokio::io::duplex(64);
        let span = Span { warm_up: Duration::from_millis(500), time: Duration::from_secs(3) };
        let upload = Request::Upload(span);
        for request in [Request::Echo, Request::Once, upload, Request::Download] {
            request.write(&mut here).await.unwrap();
            assert_eq!(Request::read(&mut there).await.unwrap(), request);
        }
        let volume = Volume { counted: 1 << 40, all: 1 << 41 };
        volume.write(&mut here).await.unwrap();
        assert_eq!(Volume::read(&mut there).await.unwrap(), volume);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        assert!(Request::read(&mut &b"x"[..]).await.is_err());
    }
}
