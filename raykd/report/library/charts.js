// What the pages need of Vega and Vega-Lite: without maps, forces, trees, word clouds and the loading of files.
import {transforms} from 'vega-dataflow';
import * as ofData from 'vega-transforms';
import * as ofViews from 'vega-view-transforms';
import * as encoders from 'vega-encode';
import * as voronoi from 'vega-voronoi';
import {View} from 'vega-view';
import {parse} from 'vega-parser';
import {expressionInterpreter} from 'vega-interpreter';
import {compile} from 'vega-lite';
import {Handler} from 'vega-tooltip';

Object.assign(transforms, ofData, ofViews, encoders, voronoi);

export {View, parse, compile, expressionInterpreter, Handler};
