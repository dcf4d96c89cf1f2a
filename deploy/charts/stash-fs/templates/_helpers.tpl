{{- define "stash-fs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "stash-fs.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "stash-fs.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "stash-fs.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The name of what is the controller's. */}}
{{- define "stash-fs.controller" -}}
{{- printf "%s-controller" (include "stash-fs.fullname" . | trunc 52 | trimSuffix "-") }}
{{- end }}

{{- define "stash-fs.serviceAccount" -}}
{{- default (include "stash-fs.controller" .) .Values.serviceAccount.name }}
{{- end }}

{{/* The names of what is a node's: the DaemonSet of csi and daemon, and that of the keeper. */}}
{{- define "stash-fs.node" -}}
{{- printf "%s-node" (include "stash-fs.fullname" . | trunc 56 | trimSuffix "-") }}
{{- end }}

{{- define "stash-fs.keeper" -}}
{{- printf "%s-keeper" (include "stash-fs.fullname" . | trunc 56 | trimSuffix "-") }}
{{- end }}

{{- define "stash-fs.provisioner" -}}
{{- printf "%s-provisioner" (include "stash-fs.fullname" . | trunc 51 | trimSuffix "-") }}
{{- end }}

{{- define "stash-fs.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "stash-fs.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: stash-fs
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Whether there are the policies that bound what the controller's account does. Its rights depend on it. */}}
{{- define "stash-fs.hasPolicies" -}}
{{- and .Values.admissionPolicy.enabled (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy") }}
{{- end }}

{{/* Whether claims of other classes are populated. */}}
{{- define "stash-fs.populates" -}}
{{- and .Values.node.enabled .Values.node.populate.enabled (eq (include "stash-fs.hasPolicies" .) "true") }}
{{- end }}

{{/* By these the controller's pods are selected; they never change. */}}
{{- define "stash-fs.selector" -}}
app.kubernetes.io/name: {{ include "stash-fs.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{/* What selects the pods of a component other than the controller: a list of the root and its name. */}}
{{- define "stash-fs.selectorOf" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "stash-fs.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* What is called: the API server, names, the stores. */}}
{{- define "stash-fs.egress" -}}
- ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.apiServer.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
- ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with concat .Values.networkPolicy.backends .Values.networkPolicy.extraEgress }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{/* An image: a list of the root and the image's own values. */}}
{{- define "stash-fs.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Two operators must not act on the same objects. Of a definition's group the API server itself makes an APIService, without a service. */}}
{{- define "stash-fs.refuseBesideStash" -}}
{{- $found := list }}
{{- range list "v1alpha1.admission.stash.appscode.com" "v1beta1.admission.stash.appscode.com" "v1alpha1.repositories.stash.appscode.com" }}
{{- $service := lookup "apiregistration.k8s.io/v1" "APIService" "" . }}
{{- if dig "spec" "service" "name" "" $service }}
{{- $found = append $found (printf "apiservice/%s" .) }}
{{- end }}
{{- end }}
{{- range list "MutatingWebhookConfiguration" "ValidatingWebhookConfiguration" }}
{{- if lookup "admissionregistration.k8s.io/v1" . "" "admission.stash.appscode.com" }}
{{- $found = append $found (printf "%s/admission.stash.appscode.com" (lower .)) }}
{{- end }}
{{- end }}
{{- if $found }}
{{- fail (printf "Stash's operator is installed, and two must not act on the same objects. Found: %s. Uninstall it first, as docs/migration.md says: its objects and your data stay. If it is gone already and left these behind, remove them: kubectl delete %s" (join ", " $found) (join " " $found)) }}
{{- end }}
{{- end }}
