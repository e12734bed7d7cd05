package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
)

// plane is a running control plane: its files, and its processes by component.
type plane struct {
	dir     string
	host    string
	flags   []string
	ports   map[string]int
	token   string
	running map[string]*exec.Cmd
	// Components that have ended of themselves, as they do without an API server, to be started again.
	ended chan *exec.Cmd
}

// components in the order they start; they stop in the opposite one.
var components = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}

// readyLine is what "up" prints, once, when everything answers.
type readyLine struct {
	Kubeconfig string  `json:"kubeconfig"`
	Dir        string  `json:"dir"`
	Server     string  `json:"server"`
	CA         string  `json:"ca"`
	Seconds    float64 `json:"seconds"`
}

func up(args []string) error {
	// A child is killed when the thread that started it ends, so that none outlives us however we die.
	runtime.LockOSThread()
	started := time.Now()
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	dir := flags.String("dir", "", "keep everything in DIR instead of a temporary directory that is removed at the end")
	host := flags.String("host", "127.0.0.1", "serve the API on this address")
	port := flags.Int("port", 0, "and on this port, instead of a free one")
	standIn := flags.Bool("node", true, "stand in for a node and its kubelet")
	var more []string
	flags.Func("apiserver-flag", "one more flag for the API server; may be given several times", func(value string) error {
		more = append(more, value)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	p, err := prepare(*dir, *host, *port)
	if err != nil {
		return err
	}
	p.flags = more
	if *dir == "" {
		defer os.RemoveAll(p.dir)
	}
	defer p.stopAll()

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	for _, component := range components[:2] {
		if err := p.start(component); err != nil {
			return err
		}
	}
	client, err := p.client()
	if err != nil {
		return err
	}
	if err := p.waitReady(ctx, client); err != nil {
		return err
	}
	for _, component := range components[2:] {
		if err := p.start(component); err != nil {
			return err
		}
	}
	if err := p.waitHealthy(ctx, components[2:]); err != nil {
		return err
	}
	if *standIn {
		node := &node{client: client}
		if err := node.register(ctx); err != nil {
			return fmt.Errorf("registering the node: %w", err)
		}
		go node.run(ctx)
	}

	line, err := json.Marshal(readyLine{p.path("kubeconfig"), p.dir, p.server(), p.path("ca.crt"), time.Since(started).Seconds()})
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	return p.obey(ctx, client)
}

// obey carries out commands from standard input until it ends or a signal comes.
func (p *plane) obey(ctx context.Context, client kubernetes.Interface) error {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case process := <-p.ended:
			if err := p.startAgain(process); err != nil {
				return err
			}
		case line, more := <-lines:
			if !more {
				return nil
			}
			if err := p.command(ctx, client, line); err != nil {
				fmt.Println("error:", err)
			} else {
				fmt.Println("done:", line)
			}
		}
	}
}

func (p *plane) command(ctx context.Context, client kubernetes.Interface, line string) error {
	verb, component, _ := strings.Cut(line, " ")
	if _, known := p.ports[component]; !known {
		return fmt.Errorf("no component %q", component)
	}
	switch verb {
	case "stop":
		p.stop(component)
		return nil
	case "restart":
		p.stop(component)
	case "start":
	default:
		return fmt.Errorf("no command %q", verb)
	}
	if err := p.start(component); err != nil {
		return err
	}
	// Without the API server, as when etcd is started before it, there is nothing to wait for.
	if p.running["kube-apiserver"] == nil {
		return nil
	}
	return p.waitReady(ctx, client)
}

// prepare makes the directory, keys, token, certificates and kubeconfig, and picks free ports; that of the API server
// only if it is 0.
func prepare(dir, host string, port int) (*plane, error) {
	var err error
	if dir == "" {
		if dir, err = os.MkdirTemp("", "controlplane-"); err != nil {
			return nil, err
		}
	} else if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	} else if err = os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	p := &plane{dir: dir, host: host, running: map[string]*exec.Cmd{}, ended: make(chan *exec.Cmd, len(components))}
	if p.ports, err = freePorts(components); err != nil {
		return nil, err
	}
	if port != 0 {
		p.ports["kube-apiserver"] = port
	}
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	p.token = hex.EncodeToString(secret)
	tokens := p.token + ",admin,admin,system:masters\n"
	if err := os.WriteFile(p.path("tokens.csv"), []byte(tokens), 0o600); err != nil {
		return nil, err
	}
	if err := p.writeCertificates(); err != nil {
		return nil, err
	}
	return p, p.writeKubeconfig()
}

func (p *plane) writeCertificates() error {
	chain, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1",
		[]net.IP{net.ParseIP(p.host), net.ParseIP("10.0.0.1")}, []string{"localhost", "kubernetes.default.svc"})
	if err != nil {
		return err
	}
	// The chain ends with the authority that signed the server's certificate.
	var authority []byte
	for rest := chain; ; {
		block, more := pem.Decode(rest)
		if block == nil {
			break
		}
		authority, rest = pem.EncodeToMemory(block), more
	}
	accounts, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	accountsKey := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(accounts)})
	for name, content := range map[string][]byte{
		"apiserver.crt": chain, "apiserver.key": key, "ca.crt": authority, "accounts.key": accountsKey,
	} {
		if err := os.WriteFile(p.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (p *plane) writeKubeconfig() error {
	authority, err := os.ReadFile(p.path("ca.crt"))
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["controlplane"] = &clientcmdapi.Cluster{Server: p.server(), CertificateAuthorityData: authority}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{Token: p.token}
	config.Contexts["controlplane"] = &clientcmdapi.Context{Cluster: "controlplane", AuthInfo: "admin"}
	config.CurrentContext = "controlplane"
	return clientcmd.WriteToFile(*config, p.path("kubeconfig"))
}

func (p *plane) path(name string) string { return filepath.Join(p.dir, name) }

func (p *plane) server() string {
	return "https://" + net.JoinHostPort(p.host, strconv.Itoa(p.ports["kube-apiserver"]))
}

func (p *plane) arguments(component string) []string {
	port := strconv.Itoa(p.ports[component])
	config := p.path("kubeconfig")
	switch component {
	case "etcd":
		return []string{p.path("etcd"), port}
	case "kube-apiserver":
		return append([]string{
			"--etcd-servers=http://127.0.0.1:" + strconv.Itoa(p.ports["etcd"]),
			"--cert-dir=" + p.path("certificates"),
			"--tls-cert-file=" + p.path("apiserver.crt"),
			"--tls-private-key-file=" + p.path("apiserver.key"),
			"--bind-address=" + p.host, "--advertise-address=" + p.host,
			"--secure-port=" + port,
			"--service-account-key-file=" + p.path("accounts.key"),
			"--service-account-signing-key-file=" + p.path("accounts.key"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--token-auth-file=" + p.path("tokens.csv"),
			"--authorization-mode=RBAC",
			"--service-cluster-ip-range=10.0.0.0/16",
			"--allow-privileged=true",
			"--shutdown-delay-duration=0s",
		}, p.flags...)
	case "kube-controller-manager":
		return []string{
			"--kubeconfig=" + config,
			"--authentication-kubeconfig=" + config,
			"--authorization-kubeconfig=" + config,
			"--service-account-private-key-file=" + p.path("accounts.key"),
			"--root-ca-file=" + p.path("ca.crt"),
			"--cert-dir=" + p.path("certificates"),
			"--secure-port=" + port, "--bind-address=127.0.0.1",
			"--leader-elect=false", "--controllers=*",
			// With the default of 20 requests a second it would be the slowest part by far.
			"--kube-api-qps=2000", "--kube-api-burst=4000",
		}
	default:
		return []string{
			"--kubeconfig=" + config,
			"--authentication-kubeconfig=" + config,
			"--authorization-kubeconfig=" + config,
			"--cert-dir=" + p.path("certificates"),
			"--secure-port=" + port, "--bind-address=127.0.0.1",
			"--leader-elect=false",
		}
	}
}

func (p *plane) start(component string) error {
	if p.running[component] != nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.path(component+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	process := exec.Command(self, append([]string{component}, p.arguments(component)...)...)
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		return err
	}
	p.running[component] = process
	go func() {
		_ = process.Wait()
		p.ended <- process
	}()
	return nil
}

// startAgain starts the component whose process has ended, unless it was stopped on purpose.
func (p *plane) startAgain(ended *exec.Cmd) error {
	for component, process := range p.running {
		if process == ended {
			fmt.Fprintf(os.Stderr, "%s has ended and is started again\n", component)
			delete(p.running, component)
			time.Sleep(500 * time.Millisecond)
			return p.start(component)
		}
	}
	return nil
}

func (p *plane) stop(component string) {
	if process := p.running[component]; process != nil {
		delete(p.running, component)
		_ = process.Process.Kill()
		for ended := range p.ended {
			if ended == process {
				return
			}
			// Another one, which has ended of itself meanwhile.
			if err := p.startAgain(ended); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
}

func (p *plane) stopAll() {
	for i := len(components) - 1; i >= 0; i-- {
		p.stop(components[i])
	}
}

// waitHealthy waits until these components answer /healthz, or a minute has gone.
func (p *plane) waitHealthy(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// Their certificates are of their own making.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, component := range names {
		for url := fmt.Sprintf("https://127.0.0.1:%d/healthz", p.ports[component]); ; {
			answer, err := client.Get(url)
			if err == nil {
				answer.Body.Close()
				if answer.StatusCode == http.StatusOK {
					break
				}
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not healthy (see %s)", component, p.path(component+".log"))
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

func (p *plane) client() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", p.path("kubeconfig"))
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(unthrottled(config))
}

func unthrottled(config *rest.Config) *rest.Config {
	config.QPS = -1
	return config
}

// waitReady waits until the API server answers /readyz, or a minute has gone.
func (p *plane) waitReady(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready (see %s): %w", p.path("kube-apiserver.log"), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freePorts finds a port for each name. All are held until all are found, so that none is found twice.
func freePorts(names []string) (map[string]int, error) {
	ports := map[string]int{}
	for _, name := range names {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports[name] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
