//! What is built without features: orders in memory, and REST by reqwest.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// More orders than this, and the oldest are forgotten.
const KEPT: usize = 1_000;

#[derive(Clone)]
struct Shop {
    client: reqwest::Client,
    orders: Arc<Mutex<BTreeMap<u64, Order>>>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Order {
    user: String,
    items: Vec<String>,
}

/// An answer that is not the one that was asked for.
struct Failure(StatusCode, String);

/// The routes; one order is there from the start.
pub async fn service() -> Result<Router, Box<dyn Error>> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let first = Order { user: "1".into(), items: vec!["a cup".into()] };
    let shop = Shop { client, orders: Arc::new(Mutex::new(BTreeMap::from([(1, first)]))) };
    Ok(Router::new()
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/v1/orders", get(list).post(create))
        .route("/v1/orders/{id}", get(show))
        .with_state(shop))
}

async fn list(State(shop): State<Shop>) -> Json<Value> {
    let orders = shop.orders.lock().unwrap_or_else(PoisonError::into_inner);
    Json(json!(orders.iter().map(|(id, order)| json!({"id": id, "user": order.user})).collect::<Vec<_>>()))
}

async fn create(State(shop): State<Shop>, Json(order): Json<Order>) -> Result<Response, Failure> {
    let user: Value = call(&shop.client, "users", "/v1/users", &order.user).await?;
    let mut orders = shop.orders.lock().unwrap_or_else(PoisonError::into_inner);
    let id = orders.last_key_value().map_or(1, |(last, _)| last + 1);
    orders.insert(id, order.clone());
    while orders.len() > KEPT {
        orders.pop_first();
    }
    let body = json!({"id": id, "user": user, "items": order.items});
    Ok((StatusCode::CREATED, [(LOCATION, format!("/v1/orders/{id}"))], Json(body)).into_response())
}

async fn show(State(shop): State<Shop>, Path(id): Path<u64>) -> Result<Json<Value>, Failure> {
    let order = shop.orders.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    let order = order.ok_or_else(|| Failure(StatusCode::NOT_FOUND, "no such order".into()))?;
    let (user, recommended) = tokio::try_join!(
        call(&shop.client, "users", "/v1/users", &order.user),
        call(&shop.client, "recommendations", "/v1/recommendations", &order.user),
    )?;
    Ok(Json(json!({
        "id": id,
        "user": user,
        "items": order.items,
        "recommended": recommended["items"],
    })))
}

/// Asks a service for one thing by its name.
async fn call(client: &reqwest::Client, service: &str, path: &str, id: &str) -> Result<Value, Failure> {
    let mut url = reqwest::Url::parse(&format!("http://{service}{path}"))
        .map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.push(id);
    }
    let failed = |error: reqwest::Error| Failure(StatusCode::BAD_GATEWAY, format!("{service}: {error}"));
    let reply = client.get(url).send().await.map_err(failed)?;
    match reply.status() {
        StatusCode::OK => reply.json().await.map_err(failed),
        StatusCode::NOT_FOUND => {
            Err(Failure(StatusCode::UNPROCESSABLE_ENTITY, format!("{service}: no user {id}")))
        }
        other => Err(Failure(StatusCode::BAD_GATEWAY, format!("{service} answered {other}"))),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}
