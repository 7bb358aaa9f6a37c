{{- define "optimizer.name" -}}
{{- if contains "llm-auto-optimizer" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-llm-auto-optimizer" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "optimizer.selector" -}}
app.kubernetes.io/name: llm-auto-optimizer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "optimizer.labels" -}}
{{ include "optimizer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "optimizer.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "optimizer.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "optimizer.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "optimizer.secret" -}}
{{- if .Values.secrets.existing -}}
{{- .Values.secrets.existing -}}
{{- else if .Values.secrets.values -}}
{{- include "optimizer.name" . -}}
{{- end -}}
{{- end -}}

{{/* What can't work is refused here, with the reason, and not by pods that crash. */}}
{{- define "optimizer.check" -}}
{{- $many := or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled -}}
{{- if and $many (not .Values.cluster.enabled) -}}
{{- fail "more than one replica needs cluster.enabled with Kafka, Redis and PostgreSQL: otherwise each would learn and roll out by itself" -}}
{{- end -}}
{{- if and (not .Values.persistence.enabled) (not .Values.cluster.enabled) -}}
{{- fail "persistence.enabled=false needs cluster.enabled: with an emptyDir alone everything learned goes with the pod" -}}
{{- end -}}
{{- if .Values.cluster.enabled -}}
{{- if not (and .Values.cluster.kafka.brokers .Values.cluster.redis.url .Values.cluster.database.url) -}}
{{- fail "cluster.enabled needs cluster.kafka.brokers, cluster.redis.url and cluster.database.url" -}}
{{- end -}}
{{- end -}}
{{- range $name := list "kafka" "redis" "database" "cluster" -}}
{{- if and $.Values.cluster.enabled (hasKey $.Values.config $name) -}}
{{- fail (printf "config.%s comes from `cluster` of the values when cluster.enabled is true" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The configuration file: what the values say, and what follows from where it runs. */}}
{{- define "optimizer.config" -}}
{{- $server := merge (dict "host" "0.0.0.0" "port" 8080) (.Values.config.server | default dict) -}}
{{- $config := merge (dict "server" $server "state_dir" "/var/lib/llm-optimizer/state") (deepCopy .Values.config) -}}
{{- if .Values.cluster.enabled -}}
{{- $kafka := dict "brokers" .Values.cluster.kafka.brokers "topic" .Values.cluster.kafka.topic "group_id" .Values.cluster.kafka.group_id -}}
{{- with .Values.cluster.kafka.security -}}{{- $_ := set $kafka "security" . -}}{{- end -}}
{{- $_ := set $config "kafka" $kafka -}}
{{- $_ := set $config "redis" (dict "url" .Values.cluster.redis.url) -}}
{{- $_ := set $config "database" (dict "url" .Values.cluster.database.url) -}}
{{- $advertise := printf "${POD_NAME}.%s-nodes.%s.svc:8080" (include "optimizer.name" .) .Release.Namespace -}}
{{- $_ := set $config "cluster" (dict "advertise" $advertise "secret" .Values.cluster.secret) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Whole seconds from SIGTERM to the last process' end. */}}
{{- define "optimizer.grace" -}}
{{- $server := .Values.config.server | default dict -}}
{{- $drain := add (int ($server.drain_delay_ms | default 0)) (int ($server.drain_timeout_ms | default 30000)) -}}
{{- add (div (add $drain 999) 1000) (int .Values.shutdownSeconds) -}}
{{- end -}}
