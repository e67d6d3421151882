//! One-time tokens with which further proxies join.

use portlatch_clock::TimeOfDay;
use portlatch_protocol::names::ProxyName;
use sqlx::Row as _;

use super::{Store, StoreError, name};

impl Store {
    /// Keeps a token's hash.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn add_join_token(
        &self,
        hash: &[u8; 32],
        proxy: &ProxyName,
        expires: TimeOfDay,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO join_tokens (hash, proxy, expires) VALUES (?, ?, ?)")
            .bind(hash.as_slice())
            .bind(proxy.as_str())
            .bind(expires.0)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Consumes a token and names the proxy that it is for; `None` if it is unknown, used or over.
    ///
    /// # Errors
    /// [`StoreError`] if the database cannot be written.
    pub async fn take_join_token(
        &self,
        hash: &[u8; 32],
        now: TimeOfDay,
    ) -> Result<Option<ProxyName>, StoreError> {
        let statement = "UPDATE join_tokens SET used = ?1 WHERE hash = ?2 AND used IS NULL AND expires > ?1 RETURNING proxy";
        let row =
            sqlx::query(statement).bind(now.0).bind(hash.as_slice()).fetch_optional(&self.writer).await?;
        row.map(|row| name(row.try_get(0)?, "proxy name")).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_join_token_serves_once_and_only_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("control.db")).await.unwrap();
        let proxy: ProxyName = "berlin-1".parse().unwrap();
        store.add_join_token(&[1; 32], &proxy, TimeOfDay(1000)).await.unwrap();
        store.add_join_token(&[2; 32], &proxy, TimeOfDay(1000)).await.unwrap();
        assert_eq!(store.take_join_token(&[1; 32], TimeOfDay(999)).await.unwrap(), Some(proxy));
        assert_eq!(store.take_join_token(&[1; 32], TimeOfDay(999)).await.unwrap(), None);
        assert_eq!(store.take_join_token(&[2; 32], TimeOfDay(1000)).await.unwrap(), None);
    }
}
