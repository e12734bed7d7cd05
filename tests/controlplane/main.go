// Command controlplane is a whole Kubernetes control plane in one binary, for tests and the demo:
// etcd, kube-apiserver, kube-controller-manager and kube-scheduler as released, each run as a process
// of its own by the "up" command, which also stands in for a node and its kubelet.
//
// There is no container runtime: a Pod that is scheduled and whose claims are Bound is said to run.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

const usage = `usage: controlplane COMMAND

  up [FLAG …]               start all of it and stay; prints one JSON line when ready, reads commands
                            (stop|start|restart COMPONENT, one a line) from standard input, ends with it
  etcd DIR PORT             one member, in DIR, serving clients on 127.0.0.1:PORT
  kube-apiserver …          as released
  kube-controller-manager … as released
  kube-scheduler …          as released
  kubectl …                 as released
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	name, args := os.Args[1], os.Args[2:]
	switch name {
	case "up":
		exitOn(up(args))
	case "etcd":
		exitOn(runEtcd(args))
	case "kube-apiserver":
		os.Exit(runComponent(apiserver.NewAPIServerCommand(), args))
	case "kube-controller-manager":
		os.Exit(runComponent(controllermanager.NewControllerManagerCommand(), args))
	case "kube-scheduler":
		os.Exit(runComponent(scheduler.NewSchedulerCommand(), args))
	case "kubectl":
		// It looks for plugins by the arguments of the process.
		os.Args = os.Args[1:]
		os.Exit(runComponent(kubectl.NewDefaultKubectlCommand(), args))
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
}

func runComponent(command *cobra.Command, args []string) int {
	command.SetArgs(args)
	return cli.Run(command)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}
