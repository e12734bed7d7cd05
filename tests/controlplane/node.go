package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// node stands in for a machine and its kubelet: always Ready, and it "runs" each Pod that is scheduled to
// it once the Pod's claims are Bound, as a real kubelet would not start one before.
type node struct {
	client kubernetes.Interface
}

const nodeName = "node-1"

// register makes the Node object, Ready; it may be there already.
func (n *node) register(ctx context.Context) error {
	capacity := v1.ResourceList{
		v1.ResourceCPU:    resource.MustParse("1000"),
		v1.ResourceMemory: resource.MustParse("1Ti"),
		v1.ResourcePods:   resource.MustParse("10000"),
	}
	object := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{v1.LabelHostname: nodeName}},
		Status:     v1.NodeStatus{Capacity: capacity, Allocatable: capacity},
	}
	if _, err := n.client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return n.beat(ctx)
}

// beat says that the node is alive; the controller manager writes off one that is silent for 40 s.
func (n *node) beat(ctx context.Context) error {
	now := metav1.Now()
	ready := v1.NodeCondition{
		Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "StandIn", Message: "a stand-in for a kubelet",
		LastHeartbeatTime: now, LastTransitionTime: now,
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []v1.NodeCondition{ready}}})
	if err != nil {
		return err
	}
	_, err = n.client.CoreV1().Nodes().Patch(ctx, nodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// run moves Pods on until the context ends.
func (n *node) run(ctx context.Context) {
	ours := informers.WithTweakListOptions(func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", nodeName).String()
	})
	// The resync brings back a Pod that could not be moved on yet.
	factory := informers.NewSharedInformerFactoryWithOptions(n.client, time.Second, ours)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.step(ctx, object.(*v1.Pod)) },
		UpdateFunc: func(_, object any) { n.step(ctx, object.(*v1.Pod)) },
	})
	n.complain("watching Pods", err)
	factory.Start(ctx.Done())
	for ticker := time.NewTicker(10 * time.Second); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			n.complain("heartbeat", n.beat(ctx))
		}
	}
}

// step does the next thing a kubelet would do for the Pod, if there is one.
func (n *node) step(ctx context.Context, pod *v1.Pod) {
	pods := n.client.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.DeletionTimestamp != nil:
		now := int64(0)
		n.complain("deleting a Pod", pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	case pod.Status.Phase == v1.PodPending && n.claimsBound(ctx, pod):
		_, err := pods.UpdateStatus(ctx, started(pod.DeepCopy()), metav1.UpdateOptions{})
		n.complain("starting a Pod", err)
	}
}

func (n *node) claimsBound(ctx context.Context, pod *v1.Pod) bool {
	for _, volume := range pod.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue
		}
		claim, err := n.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, volume.PersistentVolumeClaim.ClaimName, metav1.GetOptions{})
		if err != nil || claim.Status.Phase != v1.ClaimBound {
			return false
		}
	}
	return true
}

// started gives the Pod the status of one whose containers run, or have run if it is not to run for ever.
func started(pod *v1.Pod) *v1.Pod {
	now := metav1.Now()
	pod.Status.StartTime = &now
	pod.Status.PodIP, pod.Status.HostIP = "10.1.0.1", "10.2.0.1"
	pod.Status.Phase = v1.PodRunning
	if pod.Spec.RestartPolicy != v1.RestartPolicyAlways {
		pod.Status.Phase = v1.PodSucceeded
		return pod
	}
	for _, condition := range []v1.PodConditionType{v1.PodInitialized, v1.ContainersReady, v1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions,
			v1.PodCondition{Type: condition, Status: v1.ConditionTrue, LastTransitionTime: now})
	}
	yes := true
	for _, container := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, v1.ContainerStatus{
			Name: container.Name, Image: container.Image, Ready: true, Started: &yes,
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return pod
}

// complain reports an error that the next event or resync will get over.
func (n *node) complain(doing string, err error) {
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		fmt.Fprintf(os.Stderr, "node stand-in: %s: %v\n", doing, err)
	}
}
