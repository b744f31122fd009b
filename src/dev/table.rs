//! The table that tells where everything is.

use std::fmt::Write;
use std::sync::Arc;

use super::mesh::Mesh;
use super::service::Spec;
use crate::config::model::HealthQuestion;

pub(super) fn text(specs: &[Arc<Spec>], mesh: &Mesh) -> String {
    let front = mesh.front.addresses().outbound;
    let width = specs.iter().map(|spec| spec.name.len()).max().unwrap_or(0).max("service".len());
    let mut text =
        format!("\n{:<width$}  {:<21}  {:<28}  through the mesh\n", "service", "its own address", "admin");
    for (spec, sidecar) in specs.iter().zip(&mesh.sidecars) {
        let service = &spec.loaded.model.service;
        let own = service.address.map_or_else(String::new, |address| address.to_string());
        let admin = format!("http://{}", sidecar.addresses().admin);
        let path = match service.health.as_ref().map(|health| &health.question) {
            Some(HealthQuestion::Path(path)) => path,
            _ => "/",
        };
        let call = format!("curl -x http://{front} http://{}{path}", spec.name);
        let _ = writeln!(text, "{:<width$}  {own:<21}  {admin:<28}  {call}", spec.name);
        for (upstream, address) in &sidecar.addresses().upstreams {
            let _ = writeln!(text, "{:<width$}    {address} leads to {upstream}", "");
        }
    }
    let _ =
        writeln!(text, "\nfor your own shell:  export HTTP_PROXY=http://{front} http_proxy=http://{front}");
    text.push_str("Ctrl-C ends all\n\n");
    text
}
