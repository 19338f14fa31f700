package dialect

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"keelson.dev/keelson/internal/delivery"
)

// externalLink on an object, as an annotation, is an address at which people find what it serves (Argo CD: user-guide/external-url).
const externalLink = "link.argocd.argoproj.io/external-link"

// ArgoSummary gives what a summary tells of the objects that Git wants: the images of their Pods, and the addresses of their Ingresses.
func ArgoSummary(objects []delivery.Object) (images, urls []string) {
	for _, obj := range objects {
		images = append(images, podImages(obj.Object)...)
		if link := obj.GetAnnotations()[externalLink]; link != "" {
			_, address, titled := strings.Cut(link, "|") // "title|address"
			if !titled {
				address = link
			}
			urls = append(urls, address)
		}
		if obj.GetKind() == "Ingress" && strings.HasPrefix(obj.GetAPIVersion(), "networking.k8s.io/") {
			urls = append(urls, ingressURLs(obj.Unstructured)...)
		}
	}
	return images, urls
}

// podImages finds the images of the Pods that an object is, or makes.
func podImages(object map[string]any) (images []string) {
	for _, path := range [][]string{
		{"spec"}, {"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"},
	} {
		for _, field := range []string{"initContainers", "containers"} {
			list, _, _ := unstructured.NestedSlice(object, append(path[:len(path):len(path)], field)...)
			for _, item := range list {
				container, _ := item.(map[string]any)
				if image, _ := container["image"].(string); image != "" {
					images = append(images, image)
				}
			}
		}
	}
	return images
}

// ingressURLs are the addresses that an Ingress serves under a host's name.
func ingressURLs(u *unstructured.Unstructured) (urls []string) {
	secure := map[string]bool{}
	tls, _, _ := unstructured.NestedSlice(u.Object, "spec", "tls")
	for _, item := range tls {
		entry, _ := item.(map[string]any)
		hosts, _, _ := unstructured.NestedStringSlice(entry, "hosts")
		for _, h := range hosts {
			secure[h] = true
		}
	}
	rules, _, _ := unstructured.NestedSlice(u.Object, "spec", "rules")
	for _, item := range rules {
		rule, _ := item.(map[string]any)
		host, _ := rule["host"].(string)
		if host == "" {
			continue
		}
		scheme := "http://"
		if secure[host] {
			scheme = "https://"
		}
		paths, _, _ := unstructured.NestedSlice(rule, "http", "paths")
		if len(paths) == 0 {
			urls = append(urls, scheme+host)
		}
		for _, item := range paths {
			entry, _ := item.(map[string]any)
			path, _ := entry["path"].(string)
			urls = append(urls, scheme+host+strings.TrimSuffix(path, "/"))
		}
	}
	return urls
}
