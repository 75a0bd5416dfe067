"""Reading traces back, from the local store or from Jaeger. Knows neither Django nor OpenTelemetry."""
