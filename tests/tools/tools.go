//go:build tools

// Package tools pins the programs that `install.sh` builds.
package tools

import (
	_ "github.com/Shopify/toxiproxy/v2/cmd/server"
	_ "github.com/minio/minio"
)
