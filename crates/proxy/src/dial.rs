//! A connection to a member.

use crate::proxy_protocol;
use nm_types::proxy::ProxyVersion;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Connects; says first who the client is and where it connected to, where that is asked for. Answers why it could not.
pub async fn dial(
    member: SocketAddr,
    patience: Duration,
    header: Option<(ProxyVersion, SocketAddr, SocketAddr)>,
) -> Result<TcpStream, String> {
    let connect = async {
        let mut stream = TcpStream::connect(member).await?;
        stream.set_nodelay(true)?;
        if let Some((version, client, local)) = header {
            stream.write_all(&proxy_protocol::write(version, client, local)).await?;
        }
        std::io::Result::Ok(stream)
    };
    match tokio::time::timeout(patience, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(format!("can't connect: {e}")),
        Err(_) => Err(format!("no connection within {} ms", patience.as_millis())),
    }
}
