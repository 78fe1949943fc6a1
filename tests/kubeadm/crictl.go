// The commands of crictl that kubeadm uses, made of the CRI client in Kubernetes' source: Debian 12 has no cri-tools.
package main

import (
	"fmt"
	"os"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
	"k8s.io/kubernetes/pkg/kubelet/cri/remote"
)

const patience = 2 * time.Minute

func main() {
	if len(os.Args) < 4 || os.Args[1] != "-r" {
		fail(fmt.Errorf("usage: crictl -r SOCKET info | pods -q | stopp POD | rmp POD | inspecti IMAGE | pull IMAGE"))
	}
	pods, err := remote.NewRemoteRuntimeService(os.Args[2], patience)
	fail(err)
	images, err := remote.NewRemoteImageService(os.Args[2], patience)
	fail(err)
	command, operand := os.Args[3], os.Args[len(os.Args)-1]
	switch command {
	case "info":
		status, err := pods.Status()
		fail(err)
		fmt.Println(status)
	case "pods":
		found, err := pods.ListPodSandbox(nil)
		fail(err)
		for _, pod := range found {
			fmt.Println(pod.Id)
		}
	case "stopp":
		fail(pods.StopPodSandbox(operand))
	case "rmp":
		fail(pods.RemovePodSandbox(operand))
	case "inspecti":
		image, err := images.ImageStatus(&runtimeapi.ImageSpec{Image: operand})
		fail(err)
		if image == nil {
			fail(fmt.Errorf("no such image: %s", operand))
		}
		fmt.Println(image)
	case "pull":
		_, err := images.PullImage(&runtimeapi.ImageSpec{Image: operand}, nil, nil)
		fail(err)
	default:
		fail(fmt.Errorf("unknown command: %s", command))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
