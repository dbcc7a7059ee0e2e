{{- define "trimtab.labels" -}}
app.kubernetes.io/name: trimtab
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
trimtab.io/project: {{ .Values.project }}
{{- end }}

{{/* What pods are found by: never changes in the life of a release. */}}
{{- define "trimtab.selector" -}}
app.kubernetes.io/name: trimtab
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "trimtab.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "trimtab.serverUrl" -}}
{{- .Values.addresses.server | default (printf "http://%s-server.%s.svc:8000" .Release.Name .Release.Namespace) }}
{{- end }}

{{/* Each address of this name is a pod that answers users; what flows ask is asked of every one. */}}
{{- define "trimtab.serverPods" -}}
http://{{ .Release.Name }}-server-pods.{{ .Release.Namespace }}.svc:8000
{{- end }}

{{- define "trimtab.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "trimtab.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Addresses that servers, worker and flows share, and where to find the secrets: names of files, never values. */}}
{{- define "trimtab.env" -}}
{{- $at := "/run/secrets/trimtab" -}}
{{- $keys := .Values.secret.keys -}}
TRIMTAB_LEDGER_URL_FILE: {{ $at }}/{{ $keys.ledgerUrl }}
TRIMTAB_STORE: {{ .Values.addresses.store | quote }}
{{- with .Values.addresses.storeEndpoint }}
TRIMTAB_STORE_ENDPOINT: {{ . | quote }}
{{- end }}
AWS_DEFAULT_REGION: {{ .Values.addresses.region | quote }}
{{- with $keys.storeKeyId }}
AWS_ACCESS_KEY_ID_FILE: {{ $at }}/{{ . }}
{{- end }}
{{- with $keys.storeSecretKey }}
AWS_SECRET_ACCESS_KEY_FILE: {{ $at }}/{{ . }}
{{- end }}
{{- end }}

{{/* What the flows get, through the registration: the same for a run by schedule, by event and by hand. */}}
{{- define "trimtab.flowEnv" -}}
{{- $at := "/run/secrets/trimtab" -}}
{{- $keys := .Values.secret.keys -}}
{{ include "trimtab.env" . }}
TRIMTAB_PREFECT_URL: {{ .Values.addresses.prefect | quote }}
TRIMTAB_MLFLOW_URL: {{ .Values.addresses.mlflow | quote }}
TRIMTAB_SERVER_URL: {{ include "trimtab.serverUrl" . | quote }}
TRIMTAB_SERVER_REPLICAS: {{ include "trimtab.serverPods" . | quote }}
TRIMTAB_TARGET: kubernetes
TRIMTAB_KUBE_NAMESPACE: {{ .Release.Namespace }}
TRIMTAB_KUBE_DEPLOYMENT: {{ .Release.Name }}-server
TRIMTAB_READY_S: {{ .Values.flows.readySeconds | quote }}
TRIMTAB_WORK_POOL: {{ .Values.worker.pool }}
TRIMTAB_POOL_TYPE: kubernetes
TRIMTAB_POOL_TEMPLATE: /etc/trimtab/base-job-template.json
TRIMTAB_IMAGE: {{ include "trimtab.image" .Values.images.worker | quote }}
TRIMTAB_IMAGE_PULL: {{ .Values.images.pullPolicy }}
{{- with .Values.flows.code }}
TRIMTAB_CODE: {{ . | quote }}
{{- end }}
{{- with $keys.serverKey }}
TRIMTAB_SERVER_KEY_FILE: {{ $at }}/{{ . }}
{{- end }}
{{- with $keys.webhookUrl }}
TRIMTAB_WEBHOOK_URL_FILE: {{ $at }}/{{ . }}
{{- end }}
{{- with $keys.prefectAuth }}
PREFECT_API_AUTH_STRING_FILE: {{ $at }}/{{ . }}
{{- end }}
{{- with $keys.mlflowUsername }}
MLFLOW_TRACKING_USERNAME_FILE: {{ $at }}/{{ . }}
{{- end }}
{{- with $keys.mlflowPassword }}
MLFLOW_TRACKING_PASSWORD_FILE: {{ $at }}/{{ . }}
{{- end }}
MLFLOW_DISABLE_TELEMETRY: "true"
DVC_NO_ANALYTICS: "1"
{{- range $name, $value := .Values.flows.env }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* A map of variables as a container has them. */}}
{{- define "trimtab.asList" -}}
{{- range $name, $value := fromYaml . }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "trimtab.secretVolume" -}}
name: secrets
secret: {secretName: {{ .Values.secret.name }}, defaultMode: 0440}
{{- end }}
