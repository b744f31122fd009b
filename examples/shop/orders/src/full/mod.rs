//! The service of `make demo-full`: orders in PostgreSQL, told to Kafka, shown
//! over REST, gRPC and WebSocket on one port.

mod events;
mod grpc;
mod orders;

use std::error::Error;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use events::Events;
use grpc::{Others, proto};
use orders::Orders;

/// What the handlers share.
#[derive(Clone)]
pub struct Shop {
    orders: Orders,
    others: Others,
    events: Events,
    /// What became of orders, for whoever watches.
    news: broadcast::Sender<String>,
}

#[derive(Deserialize)]
struct New {
    user: String,
    items: Vec<String>,
}

/// An answer that is not the one that was asked for.
pub struct Failure(StatusCode, Value);

/// Connects to everything, and takes up the gifts from Kafka.
pub async fn service() -> Result<Router, Box<dyn Error>> {
    let shop = Shop {
        orders: Orders::open(&std::env::var("DATABASE_URL")?).await?,
        others: Others::new()?,
        events: Events::new(&std::env::var("KAFKA_BROKERS")?)?,
        news: broadcast::Sender::new(1024),
    };
    tokio::spawn(events::take_gifts(shop.clone()));
    Ok(Router::new()
        .route("/health", get(health))
        .route("/v1/orders", get(list).post(create))
        .route("/v1/orders/{id}", get(show))
        .route("/v1/orders/watch", get(watch))
        .route_service("/shop.v1.Orders/{method}", grpc::server(shop.clone()))
        .with_state(shop))
}

/// 503 while the database does not answer.
async fn health(State(shop): State<Shop>) -> Result<Json<Value>, Failure> {
    let asked = tokio::time::timeout(Duration::from_secs(1), shop.orders.ping());
    let down = |why: String| {
        Failure(StatusCode::SERVICE_UNAVAILABLE, json!({"status": "no database", "error": why}))
    };
    asked.await.map_err(|late| down(late.to_string()))?.map_err(|error| down(error.to_string()))?;
    Ok(Json(json!({"status": "ok"})))
}

async fn list(State(shop): State<Shop>) -> Result<Json<Value>, Failure> {
    Ok(Json(json!(shop.orders.list().await?)))
}

async fn create(State(shop): State<Shop>, Json(new): Json<New>) -> Result<Response, Failure> {
    let user = shop.others.user(&new.user).await?;
    let id = place(&shop, &[(new.user, new.items.clone())]).await?[0];
    let body = json!({"id": id, "user": shown(&user), "items": new.items});
    Ok((StatusCode::CREATED, [(LOCATION, format!("/v1/orders/{id}"))], Json(body)).into_response())
}

async fn show(State(shop): State<Shop>, Path(id): Path<i64>) -> Result<Json<Value>, Failure> {
    let order = shop.orders.get(id).await?;
    let order = order.ok_or_else(|| Failure(StatusCode::NOT_FOUND, json!({"error": "no such order"})))?;
    let (user, suggestion) =
        tokio::try_join!(shop.others.user(&order.user), shop.others.suggestion(&order.user))?;
    Ok(Json(json!({
        "id": id,
        "user": shown(&user),
        "items": order.items,
        "gift": order.gift,
        "recommended": suggestion.items,
    })))
}

/// Tells each order that is placed, and each gift, as a text message.
async fn watch(State(shop): State<Shop>, upgrade: WebSocketUpgrade) -> Response {
    let mut news = shop.news.subscribe();
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        loop {
            tokio::select! {
                said = news.recv() => {
                    let Ok(said) = said else { break };
                    if socket.send(Message::text(said)).await.is_err() {
                        return;
                    }
                }
                heard = socket.recv() => {
                    if !matches!(heard, Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_)))) {
                        return;
                    }
                }
            }
        }
        // It fell behind.
        let _ = socket.send(Message::Close(None)).await;
    })
}

/// Keeps the orders, all or none, then tells of them.
async fn place(shop: &Shop, new: &[(String, Vec<String>)]) -> Result<Vec<i64>, Failure> {
    let ids = shop.orders.add(new).await?;
    for (id, (user, items)) in ids.iter().zip(new) {
        shop.events.placed(*id, user, items).await?;
        let _ = shop.news.send(json!({"order": id, "status": "placed"}).to_string());
    }
    Ok(ids)
}

fn shown(user: &proto::User) -> Value {
    json!({"id": user.id, "name": user.name, "favourite": user.favourite})
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, json!({"error": format!("database: {error}")}))
    }
}
