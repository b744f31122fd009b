//! One upstream, followed by running its prepared query again and again: Consul
//! does not hold such a question. It names only instances that are well, here or
//! in the datacenter that the query falls back to.

use tokio::time::sleep;

use super::Consul;
use super::watch::Known;
use crate::base::UpstreamName;
use crate::clients::consul::Client;
use crate::discovery::source::{Outlet, jittered};

impl Consul {
    /// Runs the prepared query `query` until nobody listens.
    pub(super) async fn run(&self, client: &Client, query: &str, name: &UpstreamName, outlet: &Outlet) {
        let mut known = Known::new(self, client, name);
        loop {
            let Some(place) = self.places.quick().await else { return };
            let asked = client.execute_query(query, &self.selection).await;
            drop(place);
            let listening = match asked {
                Ok(said) => known.heard(said.map(|found| found.instances), true, outlet).await,
                Err(error) if error.status() == Some(404) => known.gone("its query is gone", outlet).await,
                Err(error) => known.failed(&error, outlet).await,
            };
            if !listening {
                return;
            }
            sleep(jittered(self.made_of.query_interval)).await;
        }
    }
}
