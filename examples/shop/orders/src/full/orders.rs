//! The orders in PostgreSQL. Its address is that of a local port, behind which
//! the sidecar finds the server.

use serde::Serialize;
use sqlx::postgres::{PgPool, PgPoolOptions};

const SCHEMA: &str = "create table if not exists orders (
    id bigserial primary key,
    placed_by text not null,
    items text[] not null,
    gift text
)";

#[derive(Clone)]
pub struct Orders(PgPool);

/// One row.
#[derive(Serialize, sqlx::FromRow)]
pub struct Order {
    pub id: i64,
    #[sqlx(rename = "placed_by")]
    pub user: String,
    pub items: Vec<String>,
    pub gift: Option<String>,
}

impl Orders {
    pub async fn open(url: &str) -> sqlx::Result<Self> {
        let pool = PgPoolOptions::new().max_connections(25).connect(url).await?;
        sqlx::query(SCHEMA).execute(&pool).await?;
        Ok(Self(pool))
    }

    pub async fn ping(&self) -> sqlx::Result<()> {
        sqlx::query("select 1").execute(&self.0).await.map(drop)
    }

    pub async fn list(&self) -> sqlx::Result<Vec<Order>> {
        sqlx::query_as("select * from orders order by id desc limit 100").fetch_all(&self.0).await
    }

    pub async fn get(&self, id: i64) -> sqlx::Result<Option<Order>> {
        sqlx::query_as("select * from orders where id = $1").bind(id).fetch_optional(&self.0).await
    }

    /// Adds all or none; the ids in their order.
    pub async fn add(&self, new: &[(String, Vec<String>)]) -> sqlx::Result<Vec<i64>> {
        let mut transaction = self.0.begin().await?;
        let mut ids = Vec::with_capacity(new.len());
        for (user, items) in new {
            let insert =
                sqlx::query_scalar("insert into orders (placed_by, items) values ($1, $2) returning id");
            ids.push(insert.bind(user).bind(items).fetch_one(&mut *transaction).await?);
        }
        transaction.commit().await?;
        Ok(ids)
    }

    /// Notes the gift; may be done again.
    pub async fn give(&self, id: i64, gift: &str) -> sqlx::Result<()> {
        let update = sqlx::query("update orders set gift = $2 where id = $1");
        update.bind(id).bind(gift).execute(&self.0).await.map(drop)
    }
}
