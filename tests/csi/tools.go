//go:build tools

// Package tools pins the program that `install.sh` builds.
package tools

import (
	_ "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"
)
