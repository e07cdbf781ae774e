//! Many ports of a bridge at once.
