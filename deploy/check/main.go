// Checks what is deployed with the libraries of those who read it; it needs no cluster, no engine and no schema from
// anywhere.
//
//	check chart CHART [VALUES.yaml...] > rendered.yaml
//	    renders with Helm's own engine and decodes every object into the types of the Kubernetes API, strictly: a field
//	    that does not exist, or one of the wrong type, is an error
//	check compose FILE > resolved.yaml
//	    loads with Docker's own loader, which holds the file against the Compose specification and resolves it
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

func main() {
	switch {
	case len(os.Args) >= 3 && os.Args[1] == "chart":
		checkChart(os.Args[2], os.Args[3:])
	case len(os.Args) == 3 && os.Args[1] == "compose":
		checkCompose(os.Args[2])
	default:
		fail("usage: check chart CHART [VALUES.yaml...] | check compose FILE")
	}
}

func checkCompose(file string) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithName("check"), cli.WithResolvedPaths(true))
	if err != nil {
		fail(err.Error())
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		fail(err.Error())
	}
	resolved, err := project.MarshalYAML()
	if err != nil {
		fail(err.Error())
	}
	os.Stdout.Write(resolved)
}

func checkChart(path string, files []string) {
	rendered, err := render(path, files)
	if err != nil {
		fail(err.Error())
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	names := make([]string, 0, len(rendered))
	for name := range rendered {
		names = append(names, name)
	}
	sort.Strings(names)
	wrong := false
	for _, name := range names {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		for _, document := range strings.Split("\n"+rendered[name], "\n---") {
			if strings.TrimSpace(document) == "" {
				continue
			}
			fmt.Printf("---\n# %s\n%s\n", name, strings.TrimSpace(document))
			if _, _, err := decoder.Decode([]byte(document), nil, nil); err != nil && !isForeign(err, document) {
				fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
				wrong = true
			}
		}
	}
	if wrong {
		os.Exit(1)
	}
}

// isForeign says whether the object is of a kind that is not Kubernetes' own, and at least valid YAML with a name.
func isForeign(err error, document string) bool {
	var object struct {
		APIVersion string `json:"apiVersion"`
		Metadata   struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	return runtime.IsNotRegisteredError(err) &&
		yaml.Unmarshal([]byte(document), &object) == nil &&
		object.APIVersion == "monitoring.coreos.com/v1" && object.Metadata.Name != ""
}

func render(path string, files []string) (map[string]string, error) {
	chart, err := loader.Load(path)
	if err != nil {
		return nil, err
	}
	values := map[string]interface{}{}
	for _, file := range files {
		more, err := chartutil.ReadValuesFile(file)
		if err != nil {
			return nil, err
		}
		values = chartutil.MergeTables(more, values)
	}
	release := chartutil.ReleaseOptions{Name: "optimizer", Namespace: "llm", IsInstall: true, Revision: 1}
	capabilities := chartutil.DefaultCapabilities.Copy()
	// A library that was not built by Helm's own makefile takes itself for an old cluster.
	capabilities.KubeVersion = chartutil.KubeVersion{Version: "v1.33.0", Major: "1", Minor: "33"}
	capabilities.APIVersions = append(capabilities.APIVersions, "monitoring.coreos.com/v1")
	ready, err := chartutil.ToRenderValues(chart, values, release, capabilities)
	if err != nil {
		return nil, err
	}
	return engine.Engine{Strict: true}.Render(chart, ready)
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(2)
}
