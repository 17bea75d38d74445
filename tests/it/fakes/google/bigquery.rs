//! Datasets, tables, streaming inserts and queries, as BigQuery answers them over REST.
