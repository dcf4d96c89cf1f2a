//go:build tools

// Package helm pins the program with which the chart is judged.
package helm

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
