// What Vega-Lite takes from Vega.
export * from 'vega-util';
export * from 'vega-expression';
export * from 'vega-event-selector';
