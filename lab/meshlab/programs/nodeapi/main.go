// Command nodeapi serves the part of the kubelet's HTTPS API that the API server calls for
// `kubectl exec`, `kubectl logs` and `kubectl port-forward`, for pods that are plain processes
// on this host. What runs where is read from a state directory that the pods' runner writes:
//
//	DIR/<namespace>/<pod>/pod.json          the pod's uid and network namespace
//	DIR/<namespace>/<pod>/<container>.json  the container's process, environment and logs
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"
)

// pod is what the runner says of a pod.
type pod struct {
	UID   string `json:"uid"`
	NetNS string `json:"netns"`
}

// container is what the runner says of a container: its main process and its log files.
type container struct {
	PID         int      `json:"pid"`
	Running     bool     `json:"running"`
	Env         []string `json:"env"`
	Cwd         string   `json:"cwd"`
	UID         int      `json:"uid"`
	GID         int      `json:"gid"`
	Log         string   `json:"log"`
	PreviousLog string   `json:"previousLog"`
}

// node answers for the pods of one state directory. Names come from requests, so the directory
// is an os.Root: no name leads out of it.
type node struct{ state *os.Root }

// refusal is an error whose HTTP status the client must see.
type refusal struct {
	status int
	error
}

func refuse(status int, format string, args ...any) error {
	return refusal{status, fmt.Errorf(format, args...)}
}

// pod finds the pod that a request names, and by its uid if the request gives one.
func (n node) pod(r *http.Request) (pod, error) {
	var found pod
	err := n.read(&found, r.PathValue("namespace"), r.PathValue("pod"), "pod.json")
	if errors.Is(err, fs.ErrNotExist) {
		return found, refuse(http.StatusNotFound, "pod %q does not exist", r.PathValue("pod"))
	}
	if uid := r.PathValue("uid"); err == nil && uid != "" && uid != found.UID {
		return found, refuse(http.StatusNotFound, "pod %q with uid %q not found", r.PathValue("pod"), uid)
	}
	return found, err
}

// container finds the container that a request names.
func (n node) container(r *http.Request) (container, error) {
	var found container
	if _, err := n.pod(r); err != nil {
		return found, err
	}
	name := r.PathValue("container")
	err := n.read(&found, r.PathValue("namespace"), r.PathValue("pod"), name+".json")
	if errors.Is(err, fs.ErrNotExist) {
		return found, refuse(http.StatusNotFound, "container %q not found in pod %q", name, r.PathValue("pod"))
	}
	return found, err
}

func (n node) read(into any, names ...string) error {
	text, err := n.state.ReadFile(filepath.Join(names...))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// routes are those of the kubelet, see k8s.io/kubernetes/pkg/kubelet/server.
func (n node) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, serve func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			err := serve(w, r)
			if err == nil {
				return
			}
			klog.ErrorS(err, "Request failed", "method", r.Method, "path", r.URL.Path)
			status := http.StatusInternalServerError
			if refused, ok := errors.AsType[refusal](err); ok {
				status = refused.status
			}
			http.Error(w, err.Error(), status)
		})
	}
	handle("GET /containerLogs/{namespace}/{pod}/{container}", n.logs)
	handle("/exec/{namespace}/{pod}/{container}", n.exec)
	handle("/exec/{namespace}/{pod}/{uid}/{container}", n.exec)
	handle("/portForward/{namespace}/{pod}", n.portForward)
	handle("/portForward/{namespace}/{pod}/{uid}", n.portForward)
	handle("/attach/", func(http.ResponseWriter, *http.Request) error {
		return refuse(http.StatusNotImplemented, "this node cannot attach to a container: use exec or logs")
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return mux
}

// trusting makes the TLS configuration that asks clients for a certificate of the given CA.
func trusting(clientCA string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if clientCA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(clientCA)
	if err != nil {
		return nil, err
	}
	config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", clientCA)
	}
	return config, nil
}

func main() {
	listen := flag.String("listen", "0.0.0.0:10250", "address to serve on")
	cert := flag.String("cert", "", "file of the serving certificate")
	key := flag.String("key", "", "file of the serving certificate's key")
	clientCA := flag.String("client-ca", "", "file of the CA of client certificates; without it anybody may call")
	directory := flag.String("state", "", "directory where the runner describes its pods")
	klog.InitFlags(nil)
	flag.Parse()

	config, err := trusting(*clientCA)
	if err != nil {
		klog.ErrorS(err, "Unusable --client-ca")
		os.Exit(2)
	}
	state, err := os.OpenRoot(*directory)
	if err != nil {
		klog.ErrorS(err, "Unusable --state")
		os.Exit(2)
	}
	server := &http.Server{
		Addr: *listen, Handler: node{state}.routes(), TLSConfig: config, ReadHeaderTimeout: 30 * time.Second,
	}
	klog.ErrorS(server.ListenAndServeTLS(*cert, *key), "Stopped serving", "address", *listen)
	os.Exit(1)
}
