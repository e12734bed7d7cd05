// Command kubelet is Kubernetes' own, as released: for tests that need a real node. It is not in the control plane's
// binary, which all other tests start several times.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
