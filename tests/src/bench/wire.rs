//! What a load's client says first on each connection, and what follows.
//!
//! | first | then |
//! |---|---|
//! | `Echo` | the server sends back every byte |
//! | `Once` | the server sends back one byte and closes |
//! | `Upload` + warm-up in ms | the client sends until it closes; the server answers with bytes and time after the warm-up |
//! | `Download` | the server sends until the client has enough |

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How much is read or written at once.
pub const BLOCK: usize = 256 * 1024;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Bytes come back.
    Echo,
    /// One byte comes back, then the end.
    Once,
    /// Bytes go up; what comes within the warm-up is not counted.
    Upload {
        /// Since the first byte.
        warm_up: Duration,
    },
    /// Bytes come down.
    Download,
}

impl Request {
    /// Sends it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write(self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(5);
        match self {
            Self::Echo => bytes.push(b'e'),
            Self::Once => bytes.push(b'o'),
            Self::Upload { warm_up } => {
                bytes.push(b'u');
                let millis = u32::try_from(warm_up.as_millis()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&millis.to_be_bytes());
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
            b'u' => Ok(Self::Upload { warm_up: Duration::from_millis(reader.read_u32().await?.into()) }),
            b'd' => Ok(Self::Download),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// How much came in how much time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes after the warm-up.
    pub bytes: u64,
    /// From the end of the warm-up to the last byte.
    pub time: Duration,
}

impl Volume {
    /// Sends it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write(self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        writer.write_u64(self.bytes).await?;
        writer.write_u64(u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX)).await
    }

    /// Receives it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let bytes = reader.read_u64().await?;
        Ok(Self { bytes, time: Duration::from_nanos(reader.read_u64().await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_and_volumes_read_back_as_they_were_written() {
        let (mut here, mut there) = tokio::io::duplex(64);
        let upload = Request::Upload { warm_up: Duration::from_millis(500) };
        for request in [Request::Echo, Request::Once, upload, Request::Download] {
            request.write(&mut here).await.unwrap();
            assert_eq!(Request::read(&mut there).await.unwrap(), request);
        }
        let volume = Volume { bytes: 1 << 40, time: Duration::from_nanos(7) };
        volume.write(&mut here).await.unwrap();
        assert_eq!(Volume::read(&mut there).await.unwrap(), volume);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        assert!(Request::read(&mut &b"x"[..]).await.is_err());
    }
}
