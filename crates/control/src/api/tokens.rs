use super::route::Route;
pub fn routes() -> Vec<Route> {
    Vec::new()
}
