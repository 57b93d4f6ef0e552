package main

import (
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Document is one rendered object, as YAML.
type Document struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Text              []byte `json:"-"`
}

func (d Document) String() string { return d.Kind + "/" + d.Name }

// Render builds a kustomization.
func Render(dir string) ([]Document, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	var docs []Document
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		d := Document{Text: text}
		if err := yaml.Unmarshal(text, &d); err != nil {
			return nil, err
		}
		docs = append(docs, d)
	}
	return docs, nil
}

// typeOf gives an empty object of the document's kind.
func typeOf(d Document) (any, error) {
	switch d.APIVersion + " " + d.Kind {
	case "v1 Namespace":
		return &corev1.Namespace{}, nil
	case "v1 ServiceAccount":
		return &corev1.ServiceAccount{}, nil
	case "v1 Secret":
		return &corev1.Secret{}, nil
	case "v1 ConfigMap":
		return &corev1.ConfigMap{}, nil
	case "v1 Service":
		return &corev1.Service{}, nil
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}, nil
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}, nil
	case "networking.k8s.io/v1 NetworkPolicy":
		return &networkingv1.NetworkPolicy{}, nil
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return &autoscalingv2.HorizontalPodAutoscaler{}, nil
	case "keda.sh/v1alpha1 ScaledObject":
		return &scaledObject{}, nil
	case "keda.sh/v1alpha1 TriggerAuthentication":
		return &triggerAuthentication{}, nil
	}
	return nil, fmt.Errorf("unknown kind %s %s", d.APIVersion, d.Kind)
}

// Check decodes every document strictly, and looks whether they fit each other.
func Check(docs []Document) error {
	s := &set{names: map[string]bool{}}
	var errs []error
	for _, d := range docs {
		object, err := typeOf(d)
		if err == nil {
			err = decode(d.Text, object)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d, err))
			continue
		}
		if s.names[d.String()] {
			errs = append(errs, fmt.Errorf("%s is there twice", d))
		}
		s.names[d.String()] = true
		s.objects = append(s.objects, object)
	}
	if len(errs) == 0 {
		errs = s.check()
	}
	return errors.Join(errs...)
}

// decode is as strict as an API server that is asked to be: `replica` and `Replicas`
// are no `replicas`.
func decode(text []byte, into any) error {
	asJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	strict, err := json.UnmarshalStrict(asJSON, into)
	return errors.Join(append(strict, err)...)
}

// set is the objects of one kustomization.
type set struct {
	names   map[string]bool
	objects []any
	errs    []error
}

func (s *set) fault(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

func (s *set) check() []error {
	for _, o := range s.objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			s.checkDeployment(o)
		case *corev1.Service:
			s.selects("Service/"+o.Name, labels.SelectorFromSet(o.Spec.Selector))
			for _, p := range o.Spec.Ports {
				s.hasPort("Service/"+o.Name, p.TargetPort.StrVal)
			}
		case *policyv1.PodDisruptionBudget:
			s.selectsBy("PodDisruptionBudget/"+o.Name, o.Spec.Selector)
		case *networkingv1.NetworkPolicy:
			s.selectsBy("NetworkPolicy/"+o.Name, &o.Spec.PodSelector)
			for _, rule := range o.Spec.Ingress {
				for _, p := range rule.Ports {
					s.hasPort("NetworkPolicy/"+o.Name, p.Port.StrVal)
				}
			}
		case *autoscalingv2.HorizontalPodAutoscaler:
			s.scales("HorizontalPodAutoscaler/"+o.Name, o.Spec.ScaleTargetRef.Name)
		case *scaledObject:
			s.scales("ScaledObject/"+o.Name, o.Spec.ScaleTargetRef.Name)
			for _, t := range o.Spec.Triggers {
				s.exists("ScaledObject/"+o.Name, "TriggerAuthentication/"+t.AuthenticationRef.Name)
			}
		}
	}
	return s.errs
}

func (s *set) checkDeployment(d *appsv1.Deployment) {
	name, pod := "Deployment/"+d.Name, d.Spec.Template.Spec
	s.selectsBy(name, d.Spec.Selector)
	s.exists(name, "ServiceAccount/"+pod.ServiceAccountName)
	sc := pod.SecurityContext
	if sc == nil || !isTrue(sc.RunAsNonRoot) || sc.RunAsUser == nil || *sc.RunAsUser == 0 || sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		s.fault("%s: the pod's security context is not that of the restricted standard", name)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		s.fault("%s: mounts a token of the Kubernetes API, which nothing here needs", name)
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil {
			s.exists(name, "ConfigMap/"+v.ConfigMap.Name)
		}
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		at := name + " container " + c.Name
		cs := c.SecurityContext
		if cs == nil || cs.AllowPrivilegeEscalation == nil || *cs.AllowPrivilegeEscalation || !isTrue(cs.ReadOnlyRootFilesystem) ||
			cs.Capabilities == nil || !slices.Equal(cs.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(cs.Capabilities.Add) > 0 || isTrue(cs.Privileged) {
			s.fault("%s: its security context is not that of the restricted standard with a read-only root", at)
		}
		if c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			s.fault("%s: requests and limits are missing", at)
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				s.fault("%s: mounts %s, which is no volume", at, m.Name)
			}
		}
		ports := map[string]bool{}
		for _, p := range c.Ports {
			ports[p.Name] = true
		}
		for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if p != nil && (p.HTTPGet == nil || !ports[p.HTTPGet.Port.StrVal]) {
				s.fault("%s: a probe asks no port of the container", at)
			}
		}
	}
}

func isTrue(b *bool) bool { return b != nil && *b }

// deployments are what a selector may mean here.
func (s *set) deployments() []*appsv1.Deployment {
	var out []*appsv1.Deployment
	for _, o := range s.objects {
		if d, ok := o.(*appsv1.Deployment); ok {
			out = append(out, d)
		}
	}
	return out
}

func (s *set) selectsBy(who string, selector *metav1.LabelSelector) {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		s.fault("%s: %v", who, err)
		return
	}
	s.selects(who, parsed)
}

func (s *set) selects(who string, selector labels.Selector) {
	if selector.Empty() || !slices.ContainsFunc(s.deployments(), func(d *appsv1.Deployment) bool { return selector.Matches(labels.Set(d.Spec.Template.Labels)) }) {
		s.fault("%s: selects no pod of a Deployment here", who)
	}
}

func (s *set) hasPort(who, port string) {
	for _, d := range s.deployments() {
		for _, c := range d.Spec.Template.Spec.Containers {
			if slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == port }) {
				return
			}
		}
	}
	s.fault("%s: no container has a port %q", who, port)
}

func (s *set) exists(who, what string) {
	if !s.names[what] {
		s.fault("%s: there is no %s", who, what)
	}
}

// scales wants the target, without a number of replicas of its own: each apply would
// undo what the scaler did.
func (s *set) scales(who, target string) {
	s.exists(who, "Deployment/"+target)
	for _, d := range s.deployments() {
		if d.Name == target && d.Spec.Replicas != nil {
			s.fault("%s: Deployment/%s has a number of replicas", who, target)
		}
	}
}
