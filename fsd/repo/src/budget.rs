//! One byte budget for everything that is in flight, decoded or fetched ahead.
