//! The service as its callers see it, with a security key in software that can be told to answer wrongly.

mod access;
mod admin;
mod at_pages;
mod attacks;
mod changed_terms;
mod codes;
mod devices;
mod exec;
mod http;
mod interrupted;
mod limits;
mod logging_in;
mod orders;
mod races;
mod record;
mod refusals;
mod revoking;
mod scene;
mod scopes;
mod signing_in;
mod soft_key;
mod stolen;
mod upkeep;
mod watching;
mod why;
