package main

import (
	"context"
	"net/http"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/util/flushwriter"
	criapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
	"k8s.io/klog/v2"
	queries "k8s.io/kubernetes/pkg/apis/core/v1"
)

// logs streams a container's log, which is a file in the CRI format.
func (n node) logs(w http.ResponseWriter, r *http.Request) error {
	found, err := n.container(r)
	if err != nil {
		return err
	}
	var asked corev1.PodLogOptions
	query := r.URL.Query()
	if err := queries.Convert_url_Values_To_v1_PodLogOptions(&query, &asked, nil); err != nil {
		return refuse(http.StatusBadRequest, "unable to decode query: %v", err)
	}
	name, path := r.PathValue("container"), found.Log
	if asked.Previous {
		path = found.PreviousLog
	}
	switch _, err := os.Stat(path); {
	case err == nil:
	case asked.Previous:
		return refuse(http.StatusBadRequest, "previous terminated container %q in pod %q not found", name, r.PathValue("pod"))
	default:
		return refuse(http.StatusBadRequest, "container %q in pod %q is waiting to start - no logs yet", name, r.PathValue("pod"))
	}

	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil { // whoever follows a silent container must not wait
		return err
	}
	out := flushwriter.Wrap(w)
	still := following{read: func() (container, error) { return n.container(r) }}
	err = crilogs.ReadLogs(r.Context(), path, path, options(asked), still, out, out)
	if err != nil && r.Context().Err() == nil {
		klog.ErrorS(err, "Logs ended early", "path", r.URL.Path) // too late for another HTTP status
	}
	return nil
}

// options are the CRI's words for the options of a request for logs.
func options(asked corev1.PodLogOptions) *crilogs.LogOptions {
	since := time.Time{}
	if asked.SinceTime != nil {
		since = asked.SinceTime.Time
	}
	if asked.SinceSeconds != nil {
		since = time.Now().Add(-time.Duration(*asked.SinceSeconds) * time.Second)
	}
	return &crilogs.LogOptions{
		TailLines: asked.TailLines, LimitBytes: asked.LimitBytes, Since: since,
		Follow: asked.Follow, Timestamp: asked.Timestamps,
	}
}

// following is as much of a container runtime as ReadLogs asks: whether the container, which it
// knows by the path of its log, still writes.
type following struct {
	criapi.RuntimeService
	read func() (container, error)
}

// ContainerStatus says that a container exited when it is gone or its successor has another log.
func (f following) ContainerStatus(_ context.Context, log string, _ bool) (*cri.ContainerStatusResponse, error) {
	status := &cri.ContainerStatus{State: cri.ContainerState_CONTAINER_EXITED}
	if now, err := f.read(); err == nil && now.Running && now.Log == log {
		status.State = cri.ContainerState_CONTAINER_RUNNING
	}
	return &cri.ContainerStatusResponse{Status: status}, nil
}
